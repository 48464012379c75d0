"""Any benchmark of lm-eval as a task of ours: its prompts and metrics, our network and engine, intervals from its documents.

A benchmark's name flows in, its figures flow out. lm-eval (the extra `lm-eval`) is imported when the task is done.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from framework.errors import ConfigError, DataError
from framework.tasks.base import Options, Progress, Result, Task
from framework.tasks.estimates import Estimate, Z, mean, proportion, ratio
from framework.tasks.lm_eval_model import as_lm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framework.generation import Generator

BOOTSTRAPS = 1000  # of those metrics whose standard error lm-eval finds so
OF_TEXTS: dict[str, Callable[[float], float]] = {  # metrics made of documents' (log-likelihood, words or bytes), by nats a unit
    "word_perplexity": math.exp,
    "byte_perplexity": math.exp,
    "bits_per_byte": lambda nats: nats / math.log(2),
}


class LMEval(Task):
    """A benchmark of lm-eval (EleutherAI's harness).

    Figures are lm-eval's own. Intervals are Wilson's for shares of right answers and normal for other means, both over documents;
    elsewhere from lm-eval's standard error. Of a group, its parts' figures are called PART/METRIC.

    Args:
        benchmark: lm-eval's name of the task or group, such as hellaswag.
        path: a directory of further tasks (lm-eval's --include_path); its tasks need no network if their data are files.
        few_shot: worked examples before each question; null: as many as the benchmark says.
        chat: true: everything is asked through the model's chat template.
        name: what the results are called; null: the benchmark's name.
    """

    def __init__(
        self, benchmark: str, path: str | None = None, few_shot: int | None = None, chat: bool = False, name: str | None = None
    ) -> None:
        super().__init__(benchmark if name is None else name)
        self.benchmark, self.path, self.few_shot, self.chat = benchmark, path, few_shot, chat

    def measure(self, generator: Generator, options: Options, progress: Progress) -> Result:
        """See the class."""
        model = as_lm(generator, options.batch_tokens, progress, options.seed)
        if self.chat and generator.template is None:
            raise ConfigError(f"{self.name} asks in chats (chat: true), and this model has no chat template: leave it out")
        found = self._run(model, options)
        counts = {task: each["effective"] for task, each in found["n-samples"].items()}
        return Result(
            task=self.name,
            n=sum(counts.values()),
            metrics={
                name if task == self.benchmark else f"{task}/{name}": estimate
                for task, figures in found["results"].items()
                for name, estimate in _estimates(figures, found["samples"].get(task, ()), counts.get(task, 0)).items()
            },
            settings={
                "benchmark": self.benchmark,
                "few_shot": found["n-shot"],
                "chat": self.chat,
                "versions": found["versions"],
                "lm_eval": found.get("lm_eval_version"),
            },
            samples=[sample for samples in found["samples"].values() for sample in samples[: options.samples]],
        )

    def _run(self, model: Any, options: Options) -> dict[str, Any]:
        import lm_eval
        from lm_eval.tasks import TaskManager

        if self.path is not None and not os.path.isdir(self.path):
            raise DataError(f"path of {self.name}: there is no directory {self.path}")
        with _quiet():
            tasks = TaskManager(include_path=self.path, include_defaults=self.path is None)
            if self.path is not None and self.benchmark not in tasks.all_tasks:
                tasks = TaskManager(include_path=self.path)
            if self.benchmark not in tasks.all_tasks:
                raise ConfigError(f"lm-eval has no task {self.benchmark}; lm-eval ls tasks lists them, and path adds a directory of others")
            try:
                found: dict[str, Any] = lm_eval.simple_evaluate(
                    model=model,
                    tasks=[self.benchmark],
                    num_fewshot=self.few_shot,
                    limit=options.limit,
                    bootstrap_iters=BOOTSTRAPS,
                    log_samples=True,
                    apply_chat_template=self.chat,
                    task_manager=tasks,
                    random_seed=None,  # nobody's generators are touched
                    numpy_random_seed=None,
                    torch_random_seed=None,
                    fewshot_random_seed=options.seed,
                )
            except OSError as problem:  # datasets' errors are, of files and of the network
                raise DataError(f"lm-eval cannot read the data of {self.benchmark}: {problem}") from None
        return found


def _estimates(figures: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], n: int) -> dict[str, Estimate]:
    """lm-eval's figures of one task: `acc,none` and `exact_match,strict-match` become `acc` and `exact_match/strict-match`."""
    estimates = {}
    for key, value in figures.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or isinstance(value, str):
            continue
        of_documents = [sample[metric] for sample in samples if sample["filter"] == filtered and metric in sample]
        name = metric if filtered == "none" else f"{metric}/{filtered}"
        estimates[name] = _estimate(metric, float(value), of_documents, figures.get(f"{metric}_stderr,{filtered}"), n)
    return estimates


def _estimate(metric: str, value: float, of_documents: Sequence[Any], standard_error: Any, n: int) -> Estimate:
    """A figure with the interval that its documents give, where it is what they give; else with lm-eval's standard error."""
    ours = None
    if of_documents and metric in OF_TEXTS:
        nats, units = [-each[0] for each in of_documents], [each[1] for each in of_documents]
        ours = ratio(nats, units, "documents").through(OF_TEXTS[metric])
    elif of_documents and all(isinstance(each, int | float) for each in of_documents):
        shares = set(map(float, of_documents)) <= {0.0, 1.0}
        ours = proportion(round(sum(of_documents)), len(of_documents)) if shares else mean(of_documents)
    if ours is not None and math.isclose(ours.value, value, rel_tol=1e-6, abs_tol=1e-9):
        return ours
    if isinstance(standard_error, int | float):
        return Estimate(value, value - Z * standard_error, value + Z * standard_error, n, "normal, lm-eval's standard error")
    return Estimate(value, None, None, n, "none")


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval prints to stdout, starts processes to bootstrap, and logs what it does; here results alone go to stdout."""
    variable, logger = "DISABLE_MULTIPROC", logging.getLogger("lm_eval")
    before, level = os.environ.get(variable), logger.level
    os.environ[variable] = "1"
    logger.setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
