"""From an exception to a message on stderr and an exit code.

    0  done         1  refused, or the system said no         2  usage (typer)
    130  interrupted                                        141  nobody reads the output any more

Exceptions that taskvec does not raise on purpose stay tracebacks: they are bugs.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from taskvec.cli._console import say
from taskvec.cli._interrupt import Interrupted
from taskvec.errors import ExpressionError, ParameterError, TaskVecError

_SYSTEM = {
    errno.ENOSPC: "free some space and run the same command again: it goes on where it stopped.",
    errno.EDQUOT: "free some of your quota and run the same command again: it goes on where it stopped.",
    errno.EFBIG: "choose a disk, or a limit, that holds larger files.",
    errno.EIO: "check the disk, then run the same command again: it goes on where it stopped.",
    errno.EACCES: "check the permissions, or choose another path.",
    errno.EPERM: "check the permissions, or choose another path.",
    errno.EROFS: "choose a path on a disk that can be written.",
    errno.ENAMETOOLONG: "choose a shorter name.",
    errno.ENOTDIR: "check the path.",
    errno.EISDIR: "check the path.",
    errno.EMFILE: "raise the limit of open files (ulimit -n).",
}

# What to do about a refusal that does not say it itself.
_FIXES = {
    ParameterError: "give another value.",
    ExpressionError: "correct the expression there.",
}


def guarded(run: Callable[[], Any]) -> Any:
    """The result of `run`; its failures end the command with a message and an exit code."""
    try:
        result = run()
        sys.stdout.flush()
        return result
    except KeyboardInterrupt as error:
        report_interrupt(error)
        raise typer.Exit(130) from None
    except TaskVecError as error:
        _debug()
        report(error.fact, error.fix or next((fix for kind, fix in _FIXES.items() if isinstance(error, kind)), None))
        raise typer.Exit(1) from None
    except BrokenPipeError:
        # What is still buffered would fail again when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141) from None
    except OSError as error:
        if error.errno not in _SYSTEM:
            raise
        _debug()
        where = f"'{error.filename}': " if error.filename else ""
        report(f"{where}{error.strerror}.", _SYSTEM[error.errno])
        raise typer.Exit(1) from None


def report(fact: str, fix: str | None) -> None:
    """Print the two sentences of a refusal."""
    say("Error: ", fact, style="bold red")
    if fix is not None:
        say("Fix: ", fix, style="bold green")


def report_interrupt(error: KeyboardInterrupt) -> None:
    """Print what an interrupt left behind."""
    (error if isinstance(error, Interrupted) else Interrupted("", None, 0, 0)).tell()


def _debug() -> None:
    if os.environ.get("TASKVEC_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
