"""The command `framework`: the first word names a verb, which is imported only then.

Every error that is the user's to mend ends in one line on stderr and a non-zero exit code; `--debug` shows the traceback.
"""

from __future__ import annotations

import os
import sys

from framework import __version__
from framework.errors import UserError
from framework.registry import ALLOW_LIST, UnknownPlugin, registry

USAGE = "usage: framework COMMAND [ARGUMENTS]   (framework COMMAND --help shows a command's arguments)"
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


def main(arguments: list[str] | None = None) -> int:
    """Run one command line; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if "--no-plugins" in words:
        words.remove("--no-plugins")
        os.environ[ALLOW_LIST] = ""  # inherited by the processes this one starts
    try:
        return _run(words)
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as done:  # argparse has printed the help that was asked for
        return int(done.code or 0)
    except KeyboardInterrupt:
        if debug:
            raise
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, `framework plugins | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug or error.strerror is None:
            raise
        print(f"error: {error.strerror}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else UserError.exit_code
    if words[0] == "--version":
        print(f"framework {__version__}")
        return 0
    commands = registry("framework.commands")
    try:
        part = commands.part(words[0])
    except UnknownPlugin as unknown:
        raise UserError(f"{str(unknown).split('. If you', 1)[0].replace(' in framework.commands', ' among the commands')}.") from None
    command = part.load()
    from framework.commands.arguments import run

    return run(part.name, command, words[1:])


def _help() -> str:
    from framework.commands.arguments import summary

    parts = list(registry("framework.commands").parts())
    width = max(len(part.name) for part in parts)
    lines = [f"  {part.name:{width}}  {summary(part)}".rstrip() for part in parts]
    options = [
        "  --debug       show the traceback of an error",
        "  --no-plugins  load no third-party part",
        "  --version     print the version",
    ]
    return "\n".join([USAGE, "", "Train, understand and run language models.", "", "commands:", *lines, "", "options:", *options])


if __name__ == "__main__":
    sys.exit(main())
