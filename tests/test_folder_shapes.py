"""`coterie train data=FOLDER` on folders as people have them: it ends well, or says in a line what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coterie
from coterie.errors import CoterieError

SETTINGS = {
    "network": {"name": "resnet10t", "branches": 2},
    "data": {"image_size": 32, "workers": 0},
    "training": {"epochs": 1, "batch_size": 16, "device": "cpu"},
}


def picture(label: int, number: int, size: tuple[int, int]) -> Image.Image:
    """Noise whose brightness tells the class."""
    generator = np.random.default_rng(1000 * label + number)
    pixels = generator.integers(0, 90, (size[1], size[0], 3)) + 40 * (label % 5)
    return Image.fromarray(pixels.astype(np.uint8))


def write(
    root: Path, counts: dict[str, int], size=(64, 64), change=lambda image, number: image, suffix="jpg", **options
) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            each = size(number) if callable(size) else size
            change(picture(label, number, each), number).save(root / name / f"{number}.{suffix}", **options)
    return root


def deep(image: Image.Image, number: int) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


# How a camera that is held in some way stores the upright picture: the inverse of what its EXIF orientation says.
STORED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


def write_turned(root: Path) -> Path:
    """Pictures of every orientation, which stand upright as those of ``write(root, THREE, (80, 50), suffix="png")``."""
    write(root, THREE, (80, 50), suffix="png")
    for path in sorted(root.rglob("*.png")):
        orientation = 1 + int(path.stem) % 8
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose[STORED[orientation]]) if orientation > 1 else image.copy()
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.save(path, exif=exif)
    return root


THREE = {"cat": 10, "dog": 10, "owl": 10}
SHAPES = {
    "64 pixels": lambda root: write(root, THREE),
    "500 pixels": lambda root: write(root, THREE, (500, 375)),
    "mixed sizes": lambda root: write(root, THREE, lambda number: (40 + 17 * number, 90 - 5 * number)),
    "grey": lambda root: write(root, THREE, change=lambda image, number: image.convert("L"), suffix="png"),
    "16 bit": lambda root: write(root, THREE, change=deep, suffix="png"),
    "RGBA": lambda root: write(root, THREE, change=lambda image, number: image.convert("RGBA"), suffix="png"),
    "CMYK": lambda root: write(root, THREE, change=lambda image, number: image.convert("CMYK")),
    "EXIF": write_turned,
    "nested": lambda root: write(root, {"cat/2021/may": 5, "cat/2022": 5, "dog/x/y/z": 8}),
    "unequal classes": lambda root: write(root, {"cat": 60, "dog": 6, "owl": 3}),
    "two classes": lambda root: write(root, {"no": 12, "yes": 12}),
    "200 classes": lambda root: write(root, {f"class {number:03}": 3 for number in range(200)}, (40, 40)),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_of_every_shape_trains(tmp_path, shape):
    root = tmp_path / "pictures"
    SHAPES[shape](root)
    result = coterie.train(
        {**SETTINGS, "data": {**SETTINGS["data"], "name": str(root)}}, output=tmp_path / "run", quiet=True
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    files = sum(each.is_file() for each in root.rglob("*"))
    assert summary["status"] == "finished"
    assert summary["num_train"] + summary["num_validation"] + summary["num_test"] == files
    assert summary["class_names"] == sorted(each.name for each in root.iterdir())
    assert (result.path / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["16 bit", "grey", "RGBA", "EXIF"])
def test_the_same_pictures_in_another_mode_train_to_the_same_weights(tmp_path, shape):
    """Grey and 16-bit pictures equal their 8-bit RGB twins; RGBA drops what is opaque anyway."""
    grey = shape in {"16 bit", "grey"}
    SHAPES[shape](tmp_path / "a" / "pictures")
    write(
        tmp_path / "b" / "pictures",
        THREE,
        (80, 50) if shape == "EXIF" else (64, 64),
        change=lambda image, number: image.convert("L").convert("RGB") if grey else image,
        suffix="png",
    )
    weights = []
    for name in ("a", "b"):
        settings = {**SETTINGS, "data": {**SETTINGS["data"], "name": str(tmp_path / name / "pictures")}}
        coterie.train(settings, output=tmp_path / name / "run", quiet=True)
        weights.append((tmp_path / name / "run" / "student.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 5}, "one class"),
        ({"cat": 5, "dog": 1}, "incomplete_classes=accept"),
        ({"cat": 5, "dog": 0}, "holds no images that can be read"),
        ({"fold1/cat": 2, "fold1/dog": 2, "fold2/cat": 2, "fold2/dog": 2}, "hold folders of the same names"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_line(tmp_path, counts, words):
    root = write(tmp_path / "pictures", counts)
    with pytest.raises(CoterieError, match=words) as refused:
        coterie.train(
            {**SETTINGS, "data": {**SETTINGS["data"], "name": str(root)}}, output=tmp_path / "run", quiet=True
        )
    assert len(str(refused.value).splitlines()) <= 2
    assert not (tmp_path / "run").exists()


def test_evaluate_measures_all_of_another_folder_and_counts_it(tmp_path, monkeypatch, capsys):
    from coterie import cli

    train = write(tmp_path / "train", {"cat": 8, "dog": 8, "owl": 8})
    settings = {
        **SETTINGS,
        "network": "tiny_cifar",
        "method": "baseline",
        "data": {"name": str(train), "image_size": 16},
    }
    coterie.train(settings, output=tmp_path / "run", quiet=True)
    write(tmp_path / "new", {"owl": 3, "dog": 4})
    (tmp_path / "new" / "dog" / "notes.txt").write_text("x")
    write(tmp_path / "tested", {"test/cat": 2, "test/owl": 1})
    write(tmp_path / "foreign", {"yak": 2, "owl": 1})
    for folder, count in (("new", 7), ("tested", 3)):
        monkeypatch.setattr(
            "sys.argv", ["coterie", "evaluate", str(tmp_path / "run"), f"data={tmp_path / folder}", "--json"]
        )
        cli.main()
        figures = json.loads(capsys.readouterr().out)
        assert (figures["split"], figures["num_samples"]) == ("test", count)
        support = {each["name"]: each["support"] for each in figures["per_class"]}
        assert support == ({"cat": 0, "dog": 4, "owl": 3} if folder == "new" else {"cat": 2, "dog": 0, "owl": 1})
    monkeypatch.setattr("sys.argv", ["coterie", "evaluate", str(tmp_path / "run"), f"data={tmp_path / 'new'}"])
    cli.main()
    text = capsys.readouterr().out
    assert "7 images of new" in text
    assert "1 .txt" in text
    with pytest.raises(CoterieError, match="has the classes owl, yak, the run was trained on cat, dog, owl"):
        coterie.evaluate_run(tmp_path / "run", [f"data={tmp_path / 'foreign'}"])


def test_what_was_passed_over_is_said_once(tmp_path, capsys):
    root = write(tmp_path / "pictures", THREE)
    (root / "cat" / "a.heic").write_bytes(b"x")
    (root / "owl" / "twin.jpg").write_bytes((root / "cat" / "1.jpg").read_bytes())
    settings = {
        **SETTINGS,
        "network": "tiny_cifar",
        "method": "baseline",
        "data": {"name": str(root), "image_size": 16},
    }
    coterie.train(settings, output=tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count("1 .heic") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["data_notes"]


def test_evaluate_refuses_data_that_changed_and_measures_what_is_named(tmp_path):
    """With images added, a fifth of each class is another fifth: training images would be measured."""
    root = write(tmp_path / "pictures", THREE, (16, 16), suffix="png")
    settings = {**SETTINGS, "network": "tiny_cifar", "method": "baseline", "data": str(root)}
    run = coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert coterie.evaluate_run(run.path)[1].figures["num_samples"] == run.summary["num_test"] == 6
    assert coterie.evaluate_run(run.path, [f"data={root}"])[1].figures["num_samples"] == 6  # the same, named
    for number in range(5):
        picture(0, 100 + number, (16, 16)).save(root / "cat" / f"new{number}.png")
    with pytest.raises(CoterieError, match=r"train has \d+ samples, not 21.*; to measure them as they are, name them"):
        coterie.evaluate_run(run.path)
    assert coterie.evaluate_run(run.path, [f"data={root}"])[1].figures["num_samples"] == 35
    for name in THREE:
        (root / "test").mkdir(exist_ok=True)
        (root / name).rename(root / "test" / name)
    assert coterie.evaluate_run(run.path, [f"data={root}"])[1].figures["num_samples"] == 35
