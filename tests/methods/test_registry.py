from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import coterie.methods
from coterie.errors import CoterieError
from coterie.methods import METHODS, TABLE, create_method, find_method
from coterie.methods.method import Method, method_name
from coterie.methods.options import option_fields


def test_listing_imports_no_torch():
    code = "import sys, coterie.methods as m; list(m.METHODS); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", TABLE)
def test_every_row_leads_to_a_method_with_typed_settings(name):
    assert issubclass(METHODS[name], Method)
    assert METHODS[name].__doc__
    for option, (annotation, default) in option_fields(METHODS[name]).items():
        assert annotation is not None, option
        assert default is not ..., option


@pytest.mark.parametrize("name", TABLE)
def test_errors_name_a_method_as_a_recipe_does(name, make_group):
    kind = METHODS[name]
    assert method_name(kind) == name
    mistakes = [lambda: create_method(name, make_group(1), no_such_setting=1)]
    if kind.max_students == 1:
        mistakes.append(lambda: create_method(name, make_group(2)))
    if kind.needs_teacher or kind.uses_taps:
        mistakes.append(lambda: create_method(name, make_group(1)))
    for mistake in mistakes:
        with pytest.raises(CoterieError, match=rf"\b{name}\b") as caught:
            mistake()
        assert kind.__name__ == name or kind.__name__ not in str(caught.value)


def test_no_message_of_a_method_holds_its_class():
    """Neither by its literal name, nor by asking the class for it."""
    classes = "|".join(METHODS[name].__name__ for name in TABLE)
    for path in Path(coterie.methods.__file__).parent.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not re.search(r"type\(self\)\.__name__", line), f"{path.name}: {line.strip()}"
            assert not re.search(rf"""f?"[^"`:]*\b({classes})\b (needs|trains|reads|compares|learns|mixes)""", line), (
                line
            )


def test_a_method_from_outside(make_group, tmp_path, monkeypatch):
    (tmp_path / "outside_method.py").write_text(
        "from coterie.methods.independent import Independent\nclass Mine(Independent):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = create_method("outside_method:Mine", make_group(2))
    assert type(found).__name__ == "Mine"
    assert method_name(type(found)) == "outside_method:Mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("okdmd", "did you mean 'okdmde'"),
        ("nothing.here:Mine", "cannot import"),
        ("coterie.methods.online.okdmde:Nothing", "cannot import"),
        ("pathlib:Path", "is not a method"),
    ],
)
def test_unknown_methods(name, message):
    with pytest.raises(CoterieError, match=message):
        find_method(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 3}, "did you mean 'temperature'"),
        ({"temperature": -1}, "greater than 0"),
        ({"temperature": "warm"}, "valid number"),
        ({"fusion": "3x3"}, "'1x1', 'depthwise' or 'sum'"),
        ({"diversity": "frobenios"}, "frobenius"),
        ({"ramp_up": 2}, "less than or equal to 1"),
        ({"label": 1}, "unknown setting"),
    ],
)
def test_wrong_settings_are_named_in_one_line(make_group, options, message):
    with pytest.raises(CoterieError, match=message) as caught:
        create_method("okdmde", make_group(2), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "group", "words"),
    [
        ("okdmde", "resnet18", "the group is str"),
        ("okdmde", torch.nn.Linear(2, 2), "the group is Linear"),
        (7, None, "the name is int"),
    ],
)
def test_arguments_of_another_kind_are_refused(name, group, words):
    with pytest.raises(CoterieError, match=words):
        create_method(name, group)
