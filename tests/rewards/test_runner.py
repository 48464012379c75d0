"""What a reward does to one sample, no other sample notices, and neither does the run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from framework.errors import ConfigError
from framework.rewards.base import Reward, Sample
from framework.rewards.exact_match import ExactMatch
from framework.rewards.runner import Failure, RewardError, RewardRunner, Rewards

Make = Callable[..., Sample]


@pytest.fixture
def runner(rewards: ModuleType) -> Iterator[RewardRunner]:
    with RewardRunner(rewards.Misbehaves(), timeout_seconds=1.0) as runner:
        yield runner


def reasons(results: list[float | Failure]) -> list[float | str]:
    return [result.reason if isinstance(result, Failure) else result for result in results]


FAILURES = {
    "hang": "it took longer than 1 s",
    "sleep": "it took longer than 1 s",
    "ignore signals": "it took longer than 1 s",
    "raise": "ValueError: no luck (misbehaving_rewards.py, line 22)",
    "nan": "it returned nan",
    "inf": "it returned inf",
    "none": "it returned a NoneType, no number",
    "text": "it returned a str, no number",
    "exit": "its process exited with code 3",
    "sys.exit": "SystemExit: 0 (misbehaving_rewards.py, line 40)",
    "crash": "its process was killed by SIGSEGV",
    "memory": "it ran out of memory",
}


@pytest.mark.parametrize("deed", FAILURES)
def test_only_the_sample_itself_fails(runner: RewardRunner, sample: Make, deed: str) -> None:
    results = runner.score([sample("a"), sample(deed), sample("bb"), sample("ccc")])
    assert reasons(results) == [1.0, FAILURES[deed], 2.0, 3.0]
    assert runner.score([sample("dddd")]) == [4.0], "and the next samples are judged"


def test_more_that_is_caught(runner: RewardRunner, sample: Make) -> None:
    results = runner.score([sample(deed) for deed in ("recursion", "huge", "long", "true")])
    told = reasons(results)
    assert str(told[0]).startswith("RecursionError: maximum recursion depth exceeded")
    assert str(told[1]).startswith("OverflowError")
    assert str(told[2]).startswith("ValueError: xxx") and len(str(told[2])) < 400, "a reason stays one short line"
    assert told[3] == 1.0, "true and false are 1 and 0"


def test_what_it_prints_is_no_answer(runner: RewardRunner, sample: Make, capfd: pytest.CaptureFixture[str]) -> None:
    assert runner.score([sample("print")] * 3) == [5.0] * 3
    runner.close()
    told = capfd.readouterr()
    assert told.out == "" and told.err.count("p") == 3 * 10**5, "it goes to stderr, whole"


def test_a_leak_is_not_blamed_on_who_comes_after(rewards: ModuleType, sample: Make) -> None:
    with RewardRunner(rewards.Misbehaves(), memory_bytes=5 * 10**8) as runner:
        assert runner.score([sample("leak")] * 5) == [4.0] * 5


def test_an_end_is_not_blamed_on_who_comes_after(runner: RewardRunner, sample: Make) -> None:
    assert runner.score([sample("late"), sample("wait"), sample("a")]) == [4.0, 4.0, 1.0]
    assert runner.score([sample("late")]) == [4.0]
    time.sleep(0.2)
    assert runner.score([sample("a")]) == [1.0], "it ended between two calls"


def test_scores_depend_on_the_sample_alone(runner: RewardRunner, sample: Make) -> None:
    samples = [sample(reply) for reply in ("draw", "hash", "abc", "draw", "hang", "hash", "draw")]
    one = runner.score(samples)
    assert one[0] == one[3] == one[6] and one[1] == one[5] and one[2] == 3.0
    assert runner.score(samples[::-1]) == one[::-1]
    assert [runner.score([each])[0] for each in samples] == one, "one at a time, in other processes"


def test_a_reward_cannot_change_what_others_see(runner: RewardRunner, sample: Make) -> None:
    fields: dict[str, Any] = {"answer": ["42"]}
    assert runner.score([Sample("p", "seen", True, fields)]) == [1.0]
    assert fields == {"answer": ["42"]}


def test_many_cheap_samples(runner: RewardRunner, sample: Make) -> None:
    samples = [sample("x" * (number % 7), fields={"row": number}) for number in range(5000)]
    assert runner.score(samples) == [float(number % 7) for number in range(5000)]
    assert runner.score([]) == []


def test_one_large_sample(runner: RewardRunner, sample: Make) -> None:
    assert runner.score([sample("x" * 10**7), sample("a")]) == [1e7, 1.0]


def test_it_is_one_process_that_imports_no_torch(runner: RewardRunner, sample: Make) -> None:
    (one,), (other,) = runner.score([sample("pid")]), runner.score([sample("pid")])
    assert one == other != os.getpid()
    code = "import sys, framework.rewards.worker, framework.rewards.exact_match; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_close_leaves_nothing_behind(runner: RewardRunner, sample: Make) -> None:
    worker, child = runner.score([sample("pid"), sample("child")])
    runner.close()
    runner.close()
    assert gone(int(worker)) and gone(int(child))  # type: ignore[arg-type]
    assert runner.score([sample("a")]) == [1.0], "it may be used again"


PARENT = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from framework.rewards.base import Sample
from framework.rewards.runner import RewardRunner
from misbehaving_rewards import Misbehaves
runner = RewardRunner(Misbehaves(), timeout_seconds=300)
print(int(runner.score([Sample("", "pid", True, {})])[0]), flush=True)
runner.score([Sample("", sys.argv[2], True, {})] if sys.argv[2] else [])
sys.stdin.read()
"""


@needs_proc
@pytest.mark.parametrize("doing", ["", "hang", "ignore signals"])
def test_it_dies_with_its_parent(rewards: ModuleType, tmp_path: Path, doing: str) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), doing]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.1)
        assert not gone(worker, 0.01)
        parent.send_signal(signal.SIGKILL)
    assert gone(worker)


@needs_proc
def test_ctrl_c_leaves_no_stale_answers(runner: RewardRunner, sample: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    (worker,) = runner.score([sample("pid")])
    collect = runner.begin([sample("wait"), sample("wait")])
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_next", lambda waiting: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            collect()
    assert gone(int(worker))  # type: ignore[arg-type]
    assert runner.score([sample("a")]) == [1.0]


class Here(Reward):
    def score(self, sample: Sample) -> float:
        return 0.0


def test_rewards_that_cannot_be_sent(rewards: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Inside(Here):
        pass

    with pytest.raises(ConfigError, match=r"Inside is defined inside a function.*move it to a module"):
        RewardRunner(Inside())
    monkeypatch.setattr(Here, "__module__", "__main__")
    with pytest.raises(ConfigError, match="Here is defined in the script that runs"):
        RewardRunner(Here())
    with pytest.raises(ConfigError, match="<lambda> is no reward"):
        RewardRunner(lambda sample: 0.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Misbehaves is no reward"):
        RewardRunner(rewards.Misbehaves)
    with pytest.raises(ConfigError, match="Holds cannot be sent to its own process"):
        RewardRunner(rewards.Holds())
    assert RewardRunner(rewards.Outer.Inner()).name == "Inner"


def test_a_reward_that_cannot_be_loaded(rewards: ModuleType, sample: Make) -> None:
    with pytest.raises(RewardError, match=r"CannotLoad cannot be loaded .*: RuntimeError: a model is missing") as error:
        RewardRunner(rewards.CannotLoad()).score([sample("a" * 10**6)] * 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"timeout_seconds": 0}, {"timeout_seconds": math.inf}, {"start_seconds": -1}, {"max_failures": 1.5}])
def test_numbers_outside_their_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        RewardRunner(ExactMatch(), **arguments)


def test_too_many_failures_end_it_at_once(rewards: ModuleType, sample: Make) -> None:
    """At the third of six samples, not after six limits of time."""
    with RewardRunner(rewards.Misbehaves(), timeout_seconds=0.5, max_failures=0.34) as runner:
        results = runner.score([sample("nan"), sample("a"), sample("b")])
        assert reasons(results) == ["it returned nan", 1.0, 1.0], "a third may fail"
        with pytest.raises(RewardError, match=r"Misbehaves failed for 3 of 6 samples.*0.34.*longer than 0.5 s"):
            runner.score([sample(deed) for deed in ("hang", "a", "nan", "hang", "hang", "hang")])
        assert runner.score([sample("a")]) == [1.0]


def test_several_rewards_with_weights(rewards: ModuleType, sample: Make) -> None:
    parts: list[Reward] = [ExactMatch(), rewards.Misbehaves(), ExactMatch(extract="last_number")]
    with Rewards(parts, [2.0, 0.5, -1.0], timeout_seconds=1.0) as several:
        assert several.names == ["ExactMatch", "Misbehaves", "ExactMatch_2"]
        totals, columns = several.score([sample("42", answer="42"), sample("is 42", answer="42"), sample("hang", answer="42")])
    assert columns["ExactMatch"] == [1.0, 0.0, 0.0]
    assert reasons(columns["Misbehaves"]) == [2.0, 5.0, "it took longer than 1 s"]
    assert columns["ExactMatch_2"] == [1.0, 1.0, 0.0]
    assert totals == [2.0 + 1.0 - 1.0, 2.5 - 1.0, Failure("Misbehaves: it took longer than 1 s")]


def test_sums_that_are_no_number(rewards: ModuleType, sample: Make) -> None:
    with Rewards([rewards.Misbehaves(), ExactMatch()], [1e308, 1.0]) as several:
        assert several.score([sample("a" * 9, answer="")]).totals == [Failure("the weighted sum is inf")]


def test_a_failing_reward_stops_all(rewards: ModuleType, sample: Make) -> None:
    several = Rewards([rewards.Misbehaves(), ExactMatch("nothing")])
    with pytest.raises(RewardError, match=r"ExactMatch failed for 2 of 3 samples.*no field nothing"):
        several.score([sample("a")] * 3)
    assert all(runner._worker is None for runner in several._runners)
    several.close()


@pytest.mark.parametrize("weights", [[1.0], [1.0, math.nan], []])
def test_weights_that_do_not_fit(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="must be 2 finite numbers"):
        Rewards([ExactMatch(), ExactMatch()], weights)
    with pytest.raises(ConfigError, match="no reward"):
        Rewards([])
