"""The registry: lazy, isolated, honest. Distributions are made of a folder with METADATA and entry_points.txt, as pip leaves them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from framework import registry as module
from framework.errors import UserError
from framework.registry import ALLOW_LIST, AmbiguousPlugin, BrokenPlugin, PluginError, Registry, UnknownPlugin, families, registry

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution with entries `Name = target` in a group, and a module with the given source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def _install(distribution: str, source: str = "", group: str = "framework.samplers", version: str = "1.0", **entries: str) -> None:
        package = distribution.replace("-", "_")
        folder = tmp_path / f"{package}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {target or f'{package}:{name}'}" for name, target in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
        (tmp_path / f"{package}.py").write_text(source)
        importlib.invalidate_caches()
        module._installed.cache_clear()

    yield _install
    module._installed.cache_clear()
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def test_only_the_named_plugin_is_imported(install: Install) -> None:
    install("framework-good", "class Good: pass", Good="")
    install("framework-explosive", "raise SystemError('imported')", Explosive="")
    samplers = Registry("framework.samplers")
    assert {"Good", "Explosive", "Greedy"} <= set(samplers) and len(samplers) >= 8
    assert samplers["Good"].__name__ == "Good"
    assert "framework_good" in sys.modules and "framework_explosive" not in sys.modules


def test_listing_names_imports_nothing(install: Install) -> None:
    install("framework-explosive", "raise SystemError('imported')", Explosive="")
    import framework.samplers

    assert "Explosive" in dir(framework.samplers)
    assert "Explosive" in repr(Registry("framework.samplers"))
    assert "framework_explosive" not in sys.modules


def test_parts_are_attributes_of_the_family_s_module(install: Install) -> None:
    install("framework-good", "class Good: pass", Good="")
    import framework.samplers

    assert framework.samplers.Good.__module__ == "framework_good"
    from framework.samplers.selection import Greedy

    assert framework.samplers.Greedy is Greedy
    assert framework.samplers.penalties.RepetitionPenalty is framework.samplers.RepetitionPenalty
    with pytest.raises(AttributeError, match="Did you mean Good"):
        _ = framework.samplers.Goood
    assert not hasattr(framework.samplers, "__nothing__")


def test_unknown_names_get_the_nearest_and_the_cure() -> None:
    with pytest.raises(
        UnknownPlugin, match=r"no greedy in framework\.samplers\. Did you mean Greedy\? Installed samplers: .*TopP.* reinstall"
    ):
        registry("framework.samplers")["greedy"]
    with pytest.raises(UnknownPlugin) as unknown:
        registry("framework.samplers")["Xyzzyx"]
    assert "Did you mean" not in str(unknown.value)
    assert isinstance(unknown.value, PluginError) and isinstance(unknown.value, UserError)


def test_two_distributions_of_one_name_harm_only_who_uses_it(install: Install) -> None:
    install("framework-one", "class Same: pass\nclass Other: pass", Same="", Other="")
    install("framework-two", "class Same: pass", version="2.5", Same="")
    samplers = Registry("framework.samplers")
    assert samplers["Other"].__name__ == "Other"
    assert [part.distribution for part in samplers.parts() if part.name == "Same"] == ["framework-one", "framework-two"]
    with pytest.raises(AmbiguousPlugin, match=r"framework-one 1\.0 \(framework_one:Same\) and framework-two 2\.5"):
        samplers["Same"]


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_plugin_is_named_with_its_cause(install: Install, source: str, cause: str) -> None:
    install("framework-broken", source, version="3.1", Broken="")
    with pytest.raises(BrokenPlugin) as broken:
        Registry("framework.samplers")["Broken"]
    for expected in ("framework.samplers.Broken", "framework-broken 3.1", "framework_broken:Broken", cause, "uninstall framework-broken"):
        assert expected in str(broken.value)
    assert Registry("framework.samplers")["Greedy"].__name__ == "Greedy"


def test_built_in_names_cannot_be_shadowed(install: Install) -> None:
    install("framework-impostor", "class Greedy: pass", Greedy="")
    assert Registry("framework.samplers")["Greedy"].__module__ == "framework.samplers.selection"
    assert "framework_impostor" not in sys.modules


def test_the_allow_list(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("framework-good", "class Good: pass", Good="")
    install("framework-bad", "class Bad: pass", Bad="")
    monkeypatch.setenv(ALLOW_LIST, "framework_good, another")
    assert {"Good", "Greedy"} <= set(Registry("framework.samplers")) and "Bad" not in Registry("framework.samplers")
    with pytest.raises(UnknownPlugin):
        Registry("framework.samplers")["Bad"]
    monkeypatch.setenv(ALLOW_LIST, "")
    assert "Good" not in Registry("framework.samplers") and "Greedy" in Registry("framework.samplers")


def test_parts_added_in_this_process() -> None:
    samplers = Registry("framework.samplers")

    @samplers.add
    class Mine:
        pass

    samplers.add(dict, name="Mapping")
    assert samplers["Mine"] is Mine and samplers["Mapping"] is dict and "Mine" in list(samplers)
    assert samplers.part("Mine").distribution == "(this process)"
    for taken in ("Greedy", "Mine"):
        with pytest.raises(AmbiguousPlugin, match="exists already"):
            samplers.add(Mine, name=taken)


def test_an_editable_install_beside_stale_metadata_counts_once(install: Install) -> None:
    install("framework-good", "class Good: pass", Good="")
    install("framework_good", "class Good: pass", version="0.9", Good="")
    assert [part.name for part in Registry("framework.samplers").parts()].count("Good") == 1


def test_metadata_without_a_name_is_passed_over(install: Install, tmp_path: Path) -> None:
    (tmp_path / "half_deleted-1.0.dist-info").mkdir()
    install("framework-good", "class Good: pass", Good="")
    assert "Good" in Registry("framework.samplers")


def test_families(install: Install) -> None:
    install("framework-good", "", group="framework.novelties", Novel="")
    assert {"framework.novelties", "framework.samplers", "framework.commands"} <= set(families())
    assert list(Registry("framework.novelties")) == ["Novel"]
    assert registry("framework.samplers") is registry("framework.samplers")
