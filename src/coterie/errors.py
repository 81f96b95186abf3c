"""Exceptions for user errors and failed runs, and suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CoterieError(ValueError):
    """Invalid input. The message takes one or two lines: the value, what was expected and, if there is one, the nearest known spelling.

    The command line prints only the message and exits with 2.
    """


class RunError(RuntimeError):
    """A run started and failed, for example on a loss that is not finite. The command line exits with 1."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known spelling, or an empty string.

    >>> did_you_mean("okdmd", ["okdmde", "baseline"])
    " (did you mean 'okdmde'?)"
    >>> did_you_mean("zebra", ["okdmde", "baseline"])
    ''
    """
    near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
