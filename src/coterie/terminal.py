"""What may reach a terminal: text without control characters, which names in somebody else's file may hold."""

from __future__ import annotations

import unicodedata

KEPT = {"\n", "\t", "\u200c", "\u200d"}  # joiners belong to words of some scripts and to emoji
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""The text with control characters, changes of direction and lone surrogates written as escapes.

    >>> printable("cat\x1b[31m")
    'cat\\x1b[31m'
    """
    return "".join(
        each.encode("unicode_escape").decode("ascii")
        if each not in KEPT and unicodedata.category(each) in ESCAPED
        else each
        for each in text
    )


def one_line(text: str) -> str:
    """As :func:`printable`, and a line break is an escape too: a name takes one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")
