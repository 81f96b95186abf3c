"""The one exception that a user's mistake raises, and the search for the spelling that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CoterieError(ValueError):
    """Bad input: the message is one or two lines that name the value, what was expected and, if near, the right spelling.

    The command line prints the message alone and exits with 2.
    """


class RunError(RuntimeError):
    """A run that started and failed, say on a loss that is not finite. The command line exits with 1."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known spelling, or an empty string.

    >>> did_you_mean("okdmd", ["okdmde", "baseline"])
    " (did you mean 'okdmde'?)"
    >>> did_you_mean("zebra", ["okdmde", "baseline"])
    ''
    """
    near = difflib.get_close_matches(value, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
