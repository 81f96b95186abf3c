"""Makes text safe for a terminal: names read from untrusted files may contain control characters."""

from __future__ import annotations

import unicodedata

KEPT = {"\n", "\t", "\u200c", "\u200d"}  # joiners belong to words of some scripts and to emoji
ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
MOST_LINES = 4
LONGEST_LINE = 300


def printable(text: str) -> str:
    r"""Returns the text with control characters, bidirectional controls and lone surrogates escaped.

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
    """Like :func:`printable`, but escapes line breaks and tabs too, so that a name takes one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def error_message(text: str) -> str:
    """Returns an error message as it is printed: printable, and short even if it quotes a long value.

    Returns:
        At most ``MOST_LINES`` lines of at most ``LONGEST_LINE`` characters. A longer line keeps its start, where the value
        begins, and its end, which says what was expected.
    """
    lines = [line for line in printable(text).split("\n") if line.strip()]
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], lines[-1]]
    end = LONGEST_LINE // 2
    start = LONGEST_LINE - end - len(" ... ")
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:start]} ... {line[-end:]}" for line in lines)
