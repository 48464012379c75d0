"""Samples, and a module of rewards that misbehave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from framework.rewards.base import Sample

MODULE = '''
import ctypes, os, random, signal, subprocess, sys, threading, time

from framework.rewards.base import Reward


class Misbehaves(Reward):
    """Does what the reply says; else the reply's length is its score."""

    def score(self, sample):
        match sample.reply:
            case "hang":
                while True:
                    pass
            case "sleep":
                time.sleep(60)
            case "ignore signals":
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                    signal.signal(number, signal.SIG_IGN)
                time.sleep(60)
            case "raise":
                raise ValueError("no\\nluck")
            case "long":
                raise ValueError("x" * 10**6)
            case "nan":
                return float("nan")
            case "inf":
                return float("inf")
            case "none":
                return None
            case "text":
                return "1.0"
            case "true":
                return True
            case "huge":
                return 10**400
            case "exit":
                os._exit(3)
            case "sys.exit":
                sys.exit(0)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "print":
                print("p" * 10**5)
            case "recursion":
                return self.score(sample)
            case "memory":
                return len(bytearray(10**12))
            case "leak":
                leaks.append(bytearray(2 * 10**8))
            case "late":
                threading.Timer(0.05, os._exit, [4]).start()
            case "seen":
                seen.append(sample)
                return len(seen)
            case "draw":
                return random.random()
            case "hash":
                return hash("a set's order") % 10**6
            case "pid":
                return os.getpid()
            case "child":
                return subprocess.Popen(["sleep", "300"]).pid
            case "wait":
                time.sleep(0.3)
        return float(len(sample.reply))


seen, leaks = [], []


class CannotLoad(Misbehaves):
    def __init__(self):
        self.path = "model"

    def __setstate__(self, state):
        raise RuntimeError("a model is missing")


class Holds(Misbehaves):
    def __init__(self):
        self.held = lambda: 0


class Outer:
    class Inner(Misbehaves):
        pass
'''


@pytest.fixture
def rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module."""
    import importlib

    (tmp_path / "misbehaving_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "misbehaving_rewards", raising=False)
    return importlib.import_module("misbehaving_rewards")


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """`sample("a reply", answer="42")`."""

    def make(reply: str, finished: bool = True, **fields: Any) -> Sample:
        return Sample("a prompt", reply, finished, fields)

    return make
