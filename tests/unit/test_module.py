"""The program by the interpreter's -m."""

import subprocess
import sys

from perfgate.cli import EXIT_BAD_INPUT


def test_the_module_is_the_program():
    """``python -m perfgate`` takes the same commands, under the same name, with the same exit status."""
    help_text = subprocess.run(
        [sys.executable, "-m", "perfgate", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert help_text.startswith("usage: perfgate ")
    assert "compare" in help_text
    wrong = subprocess.run(
        [sys.executable, "-m", "perfgate", "nothing"], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == EXIT_BAD_INPUT
