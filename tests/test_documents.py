from __future__ import annotations

import pytest

from coterie.documents import parse_json
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.terminal import one_line, printable


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nb: [*a, *a]\n", "alias"),
        ("&a [*a]", "alias"),
        ("[" * 3000 + "]" * 3000, "nested"),
        ("data: digits\ndata: cifar10\n", "twice"),
        ("#" * (2**20 + 1), "larger than"),
        ("seed: " + "9" * 5000, "not a YAML"),
    ],
)
def test_recipes_beyond_the_limits_are_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(CoterieError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("old", [7, "text", [1, 2], True])
def test_a_section_of_the_wrong_kind_does_not_vanish_under_an_override(old):
    with pytest.raises(CoterieError, match="training"):
        load_recipe({"training": old}, ["training.epochs=3"])


def test_json_that_is_nested_too_deeply_or_not_finite_is_a_value_error():
    for text in ("[" * 100_000, '{"a": NaN}', '{"a": -Infinity}'):
        with pytest.raises(ValueError):
            parse_json(text)


@pytest.mark.parametrize("control", ["\x1b[31m", "\x9b1m", "\u202e", "\u2066", "\x07", "\x7f", "\ud800", "\r"])
def test_control_characters_are_shown_as_escapes(control):
    assert all(each.isprintable() for each in printable(f"cat{control}dog"))
    assert "\n" not in one_line("a\nb")
    assert printable("Straße 日本 👩\u200d🔬\n") == "Straße 日本 👩\u200d🔬\n"
