from __future__ import annotations

import csv
import io
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

import coterie
from coterie import cli
from coterie.cli import predictions
from coterie.errors import CoterieError
from coterie.tasks.images.inputs import find_samples
from coterie.tasks.images.predict import BATCH_SIZE


@pytest.fixture
def predict(monkeypatch, capsys):
    """Run the command; its exit code, its output and its errors."""

    def command(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["coterie", "predict", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def pictures(tmp_path):
    """A folder with pictures on two levels, in the order in which they are predicted."""
    root = tmp_path / "shots"
    (root / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = ["1.png", "2.JPG", 'a, "b".webp', "more/x.bmp"]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("none")
    (root / ".hidden.png").write_bytes((root / "1.png").read_bytes())
    return root, [root / name for name in names]


def find_pictures(inputs):
    return find_samples(inputs, None, predictions._lines)


def test_files_folders_patterns_and_lists_find_the_same_pictures(pictures, monkeypatch):
    root, paths = pictures
    assert find_pictures([str(root)]) == paths
    assert find_pictures(list(map(str, paths))) == paths
    assert find_pictures([f"{root}/*.png", f"{root}/m*"]) == [paths[0], paths[3]]
    assert find_pictures([f"{root}/**/*.bmp"]) == [paths[3]]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(map(str, paths)) + "\r\n\n"))
    assert find_pictures(["-"]) == paths


@pytest.mark.parametrize(
    ("typed", "said"),
    [("shotz", "no image 'shotz' (did you mean 'shots'?)"), ("shots/*.gif", "no image matches"), ("empty", "holds no images")],
)  # fmt: skip
def test_what_was_typed_and_is_not_there_is_named_first(pictures, tmp_path, monkeypatch, typed, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CoterieError) as error:
        find_pictures([str(pictures[1][0]), typed])
    assert said in str(error.value)


def test_the_three_formats_say_what_python_says(small_run, pictures, predict):
    run, (root, paths) = small_run[0], pictures
    expected = coterie.predict(run, paths, top=2)
    code, output, _ = predict(run, root, "--top", 2, "--format", "json")
    assert code == 0
    for line, prediction in zip(output.splitlines(), expected, strict=True):
        read = json.loads(line)
        assert read["input"] == str(prediction.path)
        assert [(each["class"], each["probability"]) for each in read["classes"]] == list(prediction.classes)
    rows = list(csv.reader(io.StringIO(predict(run, root, "--top", 2, "-f", "csv")[1])))
    assert rows[0] == ["input", "class_1", "probability_1", "class_2", "probability_2"]
    assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
        (str(each.path), each.classes[0][0], each.classes[1][0]) for each in expected
    ]
    assert float(rows[1][2]) == pytest.approx(expected[0].classes[0][1], rel=1e-5)
    lines = predict(run, root, "--top", 2)[1].splitlines()
    assert lines[0::3] == list(map(str, paths))
    assert lines[1].endswith(expected[0].classes[0][0])
    code, _, errors = predict(run, root, "--format", "tabel")
    assert (code, "did you mean 'table'" in errors) == (2, True)


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_broken_files_are_reported_and_the_others_go_on(small_run, pictures, predict, tmp_path, format):
    _, paths = pictures
    broken = {"cut.png": paths[0].read_bytes()[:200], "empty.jpg": b"", "text.png": b"hello"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    bad = [*(tmp_path / name for name in broken), tmp_path / "pipe.png", tmp_path / "missing.png"]
    listed = "\n".join(map(str, [*bad[:2], *paths, *bad[2:]]))
    code, output, errors = predict(small_run[0], "-", "--format", format, "--top", 1, stdin=listed)
    assert code == 1
    assert all(each.name in errors for each in bad)
    assert not any(each.name in output for each in bad)
    assert errors.splitlines()[-1] == "coterie: 5 of 9 could not be read"
    lines = output.splitlines()
    if format == "csv":
        assert lines.pop(0) == "input,class_1,probability_1"
    assert len(lines) == len(paths) * (2 if format == "table" else 1)


def test_an_empty_list_is_bad_input(small_run, predict):
    code, _, errors = predict(small_run[0], "-", stdin="\n")
    assert (code, errors.count("\n")) == (2, 1)


def test_a_thousand_files_with_broken_ones_keep_their_order(small_run, pictures, tmp_path):
    """More than one process decodes: results come in the order of the paths."""
    _, paths = pictures
    (tmp_path / "bad.png").write_bytes(b"bad")
    expected = coterie.predict(small_run[0], paths, top=1)
    from coterie.prediction import iterate_predictions

    many = [*paths, tmp_path / "bad.png"] * (2 * BATCH_SIZE)
    found = list(iterate_predictions(small_run[0], many, top=1))
    assert [each.path for each in found] == many
    for number, each in enumerate(found):
        place = number % (len(paths) + 1)
        if place == len(paths):
            assert each.error is not None
            assert each.classes == ()
        else:
            assert each.classes[0][0] == expected[place].classes[0][0]
            assert each.classes[0][1] == pytest.approx(expected[place].classes[0][1], abs=1e-5)


def test_options_are_the_tasks_own(predict, small_run, pictures):
    picture = pictures[1][0]
    code, output, _ = predict(small_run[0], picture, "--set", "top=2", "--format", "json")
    assert code == 0
    assert len(json.loads(output)["classes"]) == 2
    for option, message in (
        ("tokens=3", "expected top"),
        ("tpo=3", "did you mean 'top'"),
        ("top", "KEY=VALUE"),
        ("top=x", "expected a whole number"),
    ):
        code, _, errors = predict(small_run[0], picture, "--set", option)
        assert code == 2
        assert message in errors
