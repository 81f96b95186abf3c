from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from coterie.terminal import LONGEST_LINE, MOST_LINES, error_message


@given(st.text(max_size=2000) | st.text(string.printable, min_size=300, max_size=3000))
def test_errors_are_short_and_printable_whatever_they_name(text):
    shown = error_message(text)
    lines = shown.split("\n")
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE
    assert all(each.isprintable() or each in "\n\t\u200c\u200d" or each.isspace() for each in shown if ord(each) < 128)


def test_a_long_line_keeps_its_start_and_its_end():
    shown = error_message(f"coterie: unknown method {'x' * 10_000} (did you mean 'okdmde'?)")
    assert shown.startswith("coterie: unknown method xxx")
    assert shown.endswith("x (did you mean 'okdmde'?)")
    assert len(shown) == LONGEST_LINE


def test_what_is_short_stays_as_it_is():
    assert error_message("two\nlines") == "two\nlines"


def test_notes_of_a_run_reach_the_terminal_without_control_characters_and_markup(capsys):
    from coterie.training.display import Display

    Display(1, 1).note("the class '[nope]\x1b[31m' has one\u202e sample")
    assert capsys.readouterr().err == "the class '[nope]\\x1b[31m' has one\\u202e sample\n"
