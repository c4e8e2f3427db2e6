"""The ``perfgate`` command: finds the subcommands, turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence

import perfgate
from perfgate import commands
from perfgate.errors import PerfgateError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_CUT_OFF = 141


def parser() -> argparse.ArgumentParser:
    """The parser with every module of ``perfgate.commands`` as a subcommand."""
    main_parser = argparse.ArgumentParser(
        prog="perfgate",
        description="Tells whether vLLM got slower. The suite itself runs as `pytest -m serving` and `pytest -m kernels`.",
    )
    main_parser.add_argument("--version", action="version", version=f"perfgate {perfgate.__version__}")
    subparsers = main_parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for info in sorted(pkgutil.iter_modules(commands.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{commands.__name__}.{info.name}")
        subparser = subparsers.add_parser(
            info.name.rstrip("_").replace("_", "-"), help=module.HELP, description=module.HELP
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
        its exit status; 2 for anything a person has to correct and for a crash, which must not pass for an answer (a traceback alone would
        be 1, as is "slower" or "missed"), 130 after Ctrl-C, 141 where its output was cut off before it was done.
    """
    options = parser().parse_args(arguments)
    status = EXIT_CUT_OFF
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a character is told its number (which JSON reads as the character).
            stream.reconfigure(errors="backslashreplace")
    try:
        status = options.run(options)
        sys.stdout.flush()
    except PerfgateError as error:
        print(f"perfgate {options.command}: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"perfgate {options.command}: interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away; Python's own flush at exit must not complain. What was found out still counts.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception:
        traceback.print_exc()
        return EXIT_BAD_INPUT
    return status


if __name__ == "__main__":
    sys.exit(main())
