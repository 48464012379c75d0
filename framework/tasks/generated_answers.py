"""Questions that the model answers in its own words, and what a reward makes of the answers.

Rows flow in, replies are written by the engine side by side, figures flow out. Must not know how answers are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from framework.datasets.base import Message, Row, Rows
from framework.datasets.records import RowError, Turns, prompt
from framework.errors import DataError, RequestError, UserError
from framework.rewards.base import Reward, Sample
from framework.tasks.base import Options, Progress, Result, Task
from framework.tasks.estimates import mean, proportion
from framework.tasks.rows import BETWEEN, describe, few_shot_split, fill, value

if TYPE_CHECKING:
    from framework.generation import Generator
    from framework.rewards.runner import Failure

NUM_PROBLEMS = 3  # of a kind that are told


class GeneratedAnswers(Task):
    """Answers that are written and then judged: `accuracy`, the share whose score is at least `right_score`, and the mean `score`.

    A reply that the reward fails on counts as wrong, and so does a question that the model cannot take (too long, say); both are
    counted and told. The mean score is over the replies that have one.

    Args:
        dataset: rows in any format that holds a question (`prompt`, `messages`, `instruction`, `question`), and the right answer.
        reward: judges a reply; null: ExactMatch with the field `answer`. GSM8K: ExactMatch with `extract: gsm8k`.
        template: the question as plain text, with fields of the row in braces; null: as the row has it.
        chat: true: everything is asked through the model's chat template; false: as plain text, the turns of a chat one below the
            other; auto: a chat through the template where the model has one, all else as plain text.
        few_shot: so many rows, the first of few_shot_dataset, come with their answers before each question.
        few_shot_dataset: where those are from; null: `dataset`, whose other rows are then asked.
        answer_field: what those are shown to be answered with.
        delimiter: between question and answer of those, in plain text.
        max_new_tokens: of a reply; one that reaches it is cut off.
        temperature: 0 takes the likeliest token each time.
        top_p: only the fewest likeliest tokens with this probability together; 1: all.
        stop: texts that end a reply; null: a blank line where examples come before plain text, else none.
        right_score: a reply with this score or more is right.
        timeout_seconds: the longest that the reward may take for one reply.
        name: what the results are called.
    """

    def __init__(
        self,
        dataset: Rows,
        reward: Reward | None = None,
        template: str | None = None,
        chat: bool | Literal["auto"] = "auto",
        few_shot: int = 0,
        few_shot_dataset: Rows | None = None,
        answer_field: str = "answer",
        delimiter: str = " ",
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: list[str] | None = None,
        right_score: float = 1.0,
        timeout_seconds: float = 10.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if few_shot < 0 or max_new_tokens < 1:
            raise ValueError(f"few_shot ({few_shot}) must be at least 0 and max_new_tokens ({max_new_tokens}) at least 1")
        if reward is None:
            from framework.rewards.exact_match import ExactMatch

            reward = ExactMatch()
        self.dataset, self.reward, self.template, self.chat = dataset, reward, template, chat
        self.few_shot, self.few_shot_dataset, self.answer_field, self.delimiter = few_shot, few_shot_dataset, answer_field, delimiter
        self.max_new_tokens, self.temperature, self.top_p, self.stop = max_new_tokens, temperature, top_p, stop
        self.right_score, self.timeout_seconds = right_score, timeout_seconds

    def measure(self, generator: Generator, options: Options, progress: Progress) -> Result:
        """See the class."""
        from framework.rewards.runner import RewardRunner

        if self.chat is True and generator.template is None:
            raise RequestError(f"{self.name} asks in chats (chat: true), and this model has no chat template: set chat to auto or false")
        shown, asked = few_shot_split(self.dataset, self.few_shot, self.few_shot_dataset, options.limit)
        examples = [Example(self._question(row).turns, str(value(row, self.answer_field))) for row in shown]
        questions = [self._question(row) for row in asked]
        replies = self._replies(generator, examples, questions, options.seed, progress)
        answered = [number for number, reply in enumerate(replies) if isinstance(reply, Reply)]
        with RewardRunner(self.reward, self.timeout_seconds) as runner:
            scores = dict(zip(answered, runner.score([_sample(questions[number], replies[number]) for number in answered]), strict=True))
        return self._result(questions, replies, scores, options.samples)

    def _question(self, row: Row) -> Question:
        if self.template is not None:
            return Question(fill(self.template, row), row.fields, row.source)
        try:
            return Question(*prompt(row))
        except RowError as reason:
            raise DataError(f"{row.source}: {reason}") from None

    def _replies(
        self, generator: Generator, examples: Sequence[Example], questions: Sequence[Question], seed: int, progress: Progress
    ) -> list[Reply | UserError]:
        """The reply to each question, or why there is none."""
        from framework.generation import Settings
        from framework.generation.replies import pieces

        refused: dict[int, UserError] = {}
        prompts: list[str | list[int]] = []
        for number, question in enumerate(questions):
            try:
                prompts.append(self._prompt(generator, examples, question.turns))
            except RequestError as problem:  # a chat that the template refuses: no ids, which the engine refuses in its turn
                refused[number] = problem
                prompts.append([])
        stop = self.stop if self.stop is not None else [BETWEEN] if examples and any(isinstance(each, str) for each in prompts) else []
        settings = Settings(temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens, stop=stop, seed=seed)
        texts, finished, done = [""] * len(prompts), [False] * len(prompts), 0
        for number, piece in pieces(generator, prompts, settings):
            if not isinstance(piece, Exception):
                texts[number] += piece.text
                finished[number] = piece.finish_reason == "stop"
            elif isinstance(piece, UserError):
                refused.setdefault(number, piece)
            else:
                raise piece
            done += isinstance(piece, Exception) or piece.finish_reason is not None
            progress(done, len(prompts))
        return [refused.get(number) or Reply(text, ended) for number, (text, ended) in enumerate(zip(texts, finished, strict=True))]

    def _prompt(self, generator: Generator, examples: Sequence[Example], turns: Turns) -> str | list[int]:
        if self.chat is False or (self.chat == "auto" and (isinstance(turns, str) or generator.template is None)):
            return "".join(f"{_text(asked)}{self.delimiter}{answer}{BETWEEN}" for asked, answer in examples) + _text(turns)
        asked = _messages(turns)
        system = [message for message in asked[:1] if message.role == "system"]
        before = [[*_messages(each), Message("assistant", answer)] for each, answer in examples]
        return generator.render([*system, *(turn for turns in before for turn in turns if turn.role != "system"), *asked[len(system) :]])

    def _result(
        self, questions: Sequence[Question], replies: Sequence[Reply | UserError], scores: Mapping[int, float | Failure], num_samples: int
    ) -> Result:
        given = {number: score for number, score in scores.items() if isinstance(score, float)}
        refused = {number: str(reply) for number, reply in enumerate(replies) if isinstance(reply, UserError)}
        unjudged = {number: score.reason for number, score in scores.items() if not isinstance(score, float)}
        metrics = {"accuracy": proportion(sum(score >= self.right_score for score in given.values()), len(questions))}
        if given:
            metrics["score"] = mean(list(given.values()))
        return Result(
            task=self.name,
            n=len(questions),
            metrics=metrics,
            settings=self._settings(),
            counts={
                "refused": len(refused),
                "unjudged": len(unjudged),
                "cut_off": sum(isinstance(reply, Reply) and not reply.finished for reply in replies),
            },
            problems=[
                f"{questions[number].source}: {why}" for told in (refused, unjudged) for number, why in [*told.items()][:NUM_PROBLEMS]
            ],
            samples=[
                {
                    "source": question.source,
                    "prompt": _text(question.turns),
                    "reply": reply.text if isinstance(reply, Reply) else None,
                    "score": given.get(number),
                    "problem": refused.get(number) or unjudged.get(number),
                    "fields": dict(question.fields),
                }
                for number, (question, reply) in enumerate(zip(questions[:num_samples], replies))
            ],
        )

    def _settings(self) -> dict[str, Any]:
        plain = (
            "template",
            "chat",
            "few_shot",
            "answer_field",
            "delimiter",
            "max_new_tokens",
            "temperature",
            "top_p",
            "stop",
            "right_score",
        )
        return {
            "dataset": describe(self.dataset),
            "few_shot_dataset": None if self.few_shot_dataset is None else describe(self.few_shot_dataset),
            "reward": {"class": type(self.reward).__name__, **vars(self.reward)},
            **{name: getattr(self, name) for name in plain},
        }


class Example(NamedTuple):
    """A question that is shown with its answer."""

    turns: Turns
    answer: str


class Question(NamedTuple):
    """A row that is understood; `fields` are for the reward."""

    turns: Turns
    fields: Mapping[str, Any]
    source: str


class Reply(NamedTuple):
    """What the model answered, and whether it ended by itself."""

    text: str
    finished: bool


def _sample(question: Question, reply: Reply | UserError) -> Sample:
    assert isinstance(reply, Reply)
    asked = question.turns if isinstance(question.turns, str) else question.turns[-1].content
    return Sample(asked, reply.text, reply.finished, question.fields)


def _text(turns: Turns) -> str:
    return turns if isinstance(turns, str) else BETWEEN.join(turn.content for turn in turns)


def _messages(turns: Turns) -> Sequence[Message]:
    return [Message("user", turns)] if isinstance(turns, str) else turns
