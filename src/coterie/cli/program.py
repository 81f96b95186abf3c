"""The program: runs a command, and reports errors in a few lines and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys

import typer

from coterie.cli.commands import app
from coterie.cli.usage import is_usage_error, usage_message
from coterie.errors import CoterieError, RunError
from coterie.terminal import error_message

UNUSABLE_NAMES = {errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ}  # errors of invalid paths


def main() -> None:
    """Entry point. Errors take one or two lines; the exit code is 2 for invalid input, 1 for a failed run, 128 + the number of a signal."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments or ["--help"], prog_name="coterie", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        code = _print_error(error)
    except KeyboardInterrupt:
        code = 130
        typer.echo("coterie: interrupted", err=True)
    except SystemExit as ended:  # raised by typer or rich if the output could not be written
        if isinstance(ended.__context__, BrokenPipeError):
            _end_without_reader()
        raise
    if code:
        sys.exit(code)


def _end_without_reader() -> None:
    """End by SIGPIPE (exit code 141 in a shell) when the reader of the output is gone, as in ``coterie list methods | head``, like Unix tools."""
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)


def _print_error(error: Exception) -> int:
    """Print why a command failed, in a few printable lines, and return the exit code."""
    code = 1
    if is_usage_error(error):
        code, text = 2, usage_message(error)
    elif isinstance(error, CoterieError) or getattr(error, "errno", None) in UNUSABLE_NAMES:
        code, text = 2, str(error)
    elif isinstance(error, RunError):
        text = str(error)
    elif isinstance(exit_code := getattr(error, "exit_code", None), int):  # interrupted by a signal
        code, text = exit_code, str(error)
    else:
        text = f"the run failed: {type(error).__name__}: {' '.join(str(error).split())}\n(--debug shows where)"
    typer.echo(error_message(f"coterie: {text}"), err=True)
    return code
