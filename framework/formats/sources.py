"""Where models come from: a word as a user writes it becomes a model directory.

    runs/pretrain, a Hugging Face directory   itself
    tiny                                      a model that comes with the package, where there is no such directory
    model.gguf, or a directory with just one  imported once into the cache, under a name made from its content
    org/name, org/name@revision               the Hugging Face hub's snapshot: safetensors, JSON, tokenizer and templates; nothing that runs

Nothing else knows where models come from. Must not know networks or how a model is used.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

from filelock import FileLock

from framework import __version__
from framework.errors import CheckpointError, ConfigError
from framework.files import cache_dir, sha256
from framework.models import shipped

MODEL = ("framework.json", "config.json")  # what a model directory has, ours or Hugging Face's
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
RUNS = "runs"  # never an organisation: a run that is not there yet is not looked for elsewhere
WANTED = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*"),
    *("README.md", "LICENSE*"),  # say under which terms
)
UNWANTED = ("*/*", "consolidated*", "*.py", "*.bin", "*.pkl", "*.pt", "*.pth")


def directory(source: str | Path) -> Path:
    """The model directory that a source means; what is not on this machine, or no directory, is brought there.

    Args:
        source: a run, a model directory, a GGUF file or a directory with just one, or `org/name[@revision]` of the hub.

    Raises:
        CheckpointError: there is none, with the nearest name; or it cannot be had, and why.
        ConfigError: a package is missing that it takes.
    """
    path = Path(source).expanduser()
    found = next((place for place in (path, path / "model") if any((place / name).is_file() for name in MODEL)), None)
    if found is not None:
        return found
    if not path.exists() and (packaged := shipped(str(source))) is not None:
        return packaged
    if (file := gguf_file(source)) is not None:
        return _imported(file)
    if path.exists():
        raise CheckpointError(f"{path} is no model directory (it has no config.json); give {_choices()}")
    if not is_hub_name(str(source)):
        raise CheckpointError(f"there is no directory {path}{_nearest(path)}")
    return snapshot(str(source))


def gguf_file(source: str | Path) -> Path | None:
    """The GGUF file that a source means, itself or alone in a directory that is no model directory. Raises CheckpointError for several."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not any((path / name).is_file() for name in MODEL) else []
    if len(files) > 1:
        raise CheckpointError(f"{path} holds several GGUF files; name one of them: {', '.join(file.name for file in files)}")
    return files[0] if files else None


def is_hub_name(source: str) -> bool:
    """Whether this can only be a model of the hub: two words, of which the first is no directory here."""
    first = source.partition("/")[0]
    return bool(HUB.fullmatch(source)) and first != RUNS and not Path(first).exists()


def snapshot(source: str) -> Path:
    """The directory of a hub's model, downloaded where it is not there yet; it is called by its commit. Raises CheckpointError."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise ConfigError(
            f"there is no directory {source}, and a model of the Hugging Face hub needs: pip install 'framework[hf]'"
        ) from None
    name, _, revision = source.partition("@")
    print(f"{source}: looking for it on the Hugging Face hub", file=sys.stderr)
    try:
        place = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise CheckpointError(
            f"there is no directory {source}, and the Hugging Face hub has no such model for you (a private or gated one needs `hf auth login`)"
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"there is no directory {source}, the Hugging Face hub cannot be reached, and nothing of that name was downloaded before"
        ) from None
    except Exception as cause:  # the library's own, its HTTP client's, the operating system's
        raise CheckpointError(f"{source} cannot be had from the Hugging Face hub: {str(cause).partition(chr(10))[0]}") from cause
    if not (Path(place) / "config.json").is_file():
        raise CheckpointError(f"the hub's {source} holds no config.json with safetensors; of its GGUF files download one and give its path")
    return Path(place)


def _imported(file: Path) -> Path:
    """The cached model directory of a GGUF file."""
    from framework.formats.importing import import_model

    place = cache_dir() / "models" / f"{sha256(file)[:32]}-{__version__}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f"{place.name}.lock")):
        if not (place / MODEL[0]).is_file():
            print(f"{file}: importing it once, into {place}", file=sys.stderr)
            import_model(file, place)
    return place


def _choices() -> str:
    return "a finished run (runs/NAME), a Hugging Face directory, a .gguf file, or ORG/NAME of the Hugging Face hub"


def _nearest(path: Path) -> str:
    siblings = [place.name for place in path.parent.iterdir() if place.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else f": give {_choices()}"
