"""What a person sees while servers boot and load runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perfgate.plaintext import plain, visible


def progress(config: pytest.Config) -> Callable[[str], None]:
    """One line that changes while servers boot and load runs; nothing where the output is not a terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    writer = config.get_terminal_writer() if reporter is not None else None
    if writer is None or capture is None or not writer.hasmarkup or config.get_verbosity() < 0:
        return lambda _words: None

    def show(words: str) -> None:
        with capture.global_and_fixture_disabled():
            writer.write(f"\r\x1b[2K{visible(words)[: writer.fullwidth - 1]}\r", flush=True)

    return show


def announce(config: pytest.Config) -> Callable[[str], None]:
    """Whole lines that a person must see, also where the output is no terminal."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None or hasattr(config, "workeroutput"):
        return lambda _words: None
    writer = config.get_terminal_writer()

    def show(words: str) -> None:
        with capture.global_and_fixture_disabled():
            # At once: into a file or a pipe a line would otherwise come out when it is too late to act on it.
            writer.write(f"\nperfgate: {plain(words)}\n", flush=True)

    return show
