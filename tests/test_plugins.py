"""The shipped plugins, really installed: pip into an environment of its own, which sees this one's packages; no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("framework-lion", "framework-orpo", "framework-top-n-sigma")


class Environment:
    """A virtual environment on top of the running one."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        site_packages = next(folder.glob("lib/python*/site-packages"))
        # a line of a .pth file that begins with import is run: this one reads the running environment's own .pth files too
        (site_packages / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python outside the checkout."""
        environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(
            [self.python, *words], cwd=self.python.parent, env=environment, capture_output=True, text=True, timeout=300, check=False
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    made = Environment(tmp_path_factory.mktemp("plugins") / "venv")
    before = made.run("-m", "framework", "plugins")
    assert before.returncode == 0 and "framework-lion" not in before.stdout, before.stderr
    # pip builds inside the source folder and leaves build/ and *.egg-info there: copies keep the checkout clean
    sources = [str(_copy(package, tmp_path_factory.mktemp("sources"))) for package in PACKAGES]
    installed = made.run("-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", *sources)
    assert installed.returncode == 0, installed.stderr
    return made


def _copy(package: str, into: Path) -> Path:
    return shutil.copytree(ROOT / "plugins" / package, into / package, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))


def test_listed_with_package_and_version(environment: Environment) -> None:
    rows = [line.split() for line in environment.run("-m", "framework", "plugins").stdout.splitlines()]
    assert ["optimizers", "Lion", "framework-lion", "0.1.0"] in rows
    assert ["samplers", "TopNSigma", "framework-top-n-sigma", "0.1.0"] in rows
    assert ["recipes", "ORPO", "framework-orpo", "0.1.0"] in rows


def test_a_recipe_of_a_plugin_answers_to_its_name(environment: Environment, tmp_path: Path) -> None:
    """Its class and its YAML come with the package; `--recipe` finds them as it finds the built-in ones."""
    shape = '{"class_path": "Transformer", "init_args": {"shape": {"num_layers": 1, "width": 16, "num_heads": 2}}}'
    words = ["--init_from", "null", "--model.network", shape, "--data.tokenizer", "Byte", "--data.chat_template", "simple"]
    words += ["--trainer", "configs/trainer/smoke.yaml", "--trainer.accelerator", "cpu", "--runs_dir", str(tmp_path)]
    done = environment.run("-m", "framework", "finetune", "--recipe", "orpo", *words, "--data.dataset.size", "40")
    assert done.returncode == 0, done.stderr
    assert "ORPO" in done.stderr and (tmp_path / "orpo" / "model" / "model.safetensors").is_file()


def test_conformance_as_a_command(environment: Environment) -> None:
    tested = environment.run("-m", "framework", "plugins", "test", "framework_lion")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    lines = tested.stdout.splitlines()
    assert len(lines) > 6 and all(line.startswith("pass  optimizers.Lion  ") for line in lines[:-1])
    assert lines[-1] == f"framework-lion: {len(lines) - 1} passed, 0 failed"


def test_own_tests_of_the_plugins_pass(environment: Environment) -> None:
    """The conformance suite again, and what only the plugins know."""
    folders = [str(ROOT / "plugins" / package / "tests") for package in PACKAGES]
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(environment.python.parent)]
    passed = environment.run("-m", "pytest", *options, *folders)
    assert passed.returncode == 0, passed.stdout[-3000:]


def test_switched_off(environment: Environment) -> None:
    for words, variables in [(("--no-plugins", "plugins"), {}), (("plugins",), {"FRAMEWORK_PLUGINS": "framework-top-n-sigma"})]:
        listed = environment.run("-m", "framework", *words, **variables)
        assert listed.returncode == 0 and "Lion" not in listed.stdout and "Muon" in listed.stdout


def test_this_environment_is_left_alone(environment: Environment) -> None:
    """Named in the one, unknown in the other; asking imports no torch."""
    code = "import sys, framework.optimizers; print('Lion' in dir(framework.optimizers), 'torch' in sys.modules)"
    assert environment.run("-c", code).stdout.split() == ["True", "False"]
    here = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert here.stdout.split() == ["False", "False"]
