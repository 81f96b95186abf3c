"""What may reach a terminal: text without control characters, which names in somebody else's file may hold."""

from __future__ import annotations

import unicodedata

KEPT = {"\n", "\t", "\u200c", "\u200d"}  # joiners belong to words of some scripts and to emoji
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
MOST_LINES = 4
LONGEST_LINE = 300


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


def error_message(text: str) -> str:
    """What is printed of an error: printable, and short whatever the value is that it names.

    Returns:
        At most ``MOST_LINES`` lines of at most ``LONGEST_LINE`` characters. Of a longer line the start and the end
        stay: the value begins there, and what was expected stands there.
    """
    lines = [line for line in printable(text).split("\n") if line.strip()]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], lines[-1]]
    end = LONGEST_LINE // 2
    start = LONGEST_LINE - end - len(" ... ")
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:start]} ... {line[-end:]}" for line in lines)
