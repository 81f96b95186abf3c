from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from coterie.data import decoding
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images.data import scan
from coterie.tasks.images.data.folders import read_folder


def read(root, *overrides):
    return read_folder(root, load_recipe(None, overrides).data)


def relative(samples, root):
    names = (samples.stored.name(number) for number in range(len(samples)))
    return [Path(name).relative_to(root).as_posix() for name in names]


FULL = {f"{split}/{name}": count for split, count in (("train", 4), ("val", 2), ("test", 3)) for name in ("cat", "dog")}


def test_splits_and_classes(make_tree):
    root = make_tree(FULL)
    raw = read(root)
    assert (raw.name, raw.class_names) == ("pictures", ("cat", "dog"))
    assert [len(each) for each in (raw.train, raw.validation, raw.test)] == [8, 4, 6]
    assert relative(raw.validation, root) == ["val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png"]
    assert raw.train.labels.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_a_lone_held_out_folder_is_the_test_split(make_tree, name):
    root = make_tree({"train/cat": 6, "train/dog": 6, f"{name}/cat": 2, f"{name}/dog": 2})
    raw = read(root)
    assert raw.validation is None
    assert all(path.startswith(name) for path in relative(raw.test, root))
    assert len(raw.train) == 12


def test_class_folders_alone_give_a_fifth_of_each_class_as_test(make_tree):
    root = make_tree({"cat": 10, "dog": 20})
    raw = read(root)
    assert np.bincount(raw.test.labels).tolist() == [2, 4]
    assert not set(relative(raw.train, root)) & set(relative(raw.test, root))
    assert raw.validation is None
    assert relative(read(root).test, root) == relative(raw.test, root)
    assert relative(read(root, "data.validation_seed=1").test, root) != relative(raw.test, root)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "bmp", "tiff"])
def test_formats(make_tree, suffix):
    assert len(read(make_tree({"cat": 2, "dog": 2}, suffix=suffix)).train) == 2


def test_other_and_hidden_files_are_passed_over_and_sub_folders_and_links_followed(make_tree, tmp_path):
    root = make_tree({"cat/indoors": 2, "cat": 1, "elsewhere": 3}, name="a")
    (root / "elsewhere").rename(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / "._0.png").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "README.md").write_text("x")
    raw = read(root)
    assert raw.class_names == ("cat", "dog")
    assert len(raw.train) + len(raw.test) == 6


def corrupt(path):
    path.write_bytes(path.read_bytes()[:60])


def test_a_broken_image_is_named_or_left_out_and_counted(make_tree):
    root = make_tree(FULL)
    corrupt(root / "train" / "dog" / "3.png")
    with pytest.raises(CoterieError, match=r"train/dog/3\.png': .*\n.*data\.skip_bad_images=true"):
        read(root)
    corrupt(root / "test" / "cat" / "0.png")
    with pytest.raises(CoterieError, match=r"train/dog/3\.png' and 1 more"):
        read(root)
    raw = read(root, "data.skip_bad_images=true")
    assert raw.skipped == 2
    assert "train/dog/3.png" not in relative(raw.train, root)
    assert [len(each) for each in (raw.train, raw.validation, raw.test)] == [7, 4, 5]


def test_a_class_whose_images_are_all_broken(make_tree):
    root = make_tree({"train/cat": 3, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    corrupt(root / "train" / "dog" / "0.png")
    with pytest.raises(CoterieError, match=r"the class 'dog' in .* holds no images that can be read"):
        read(root, "data.skip_bad_images=true")


def test_the_second_start_decodes_nothing_until_a_file_changes(make_tree, monkeypatch):
    root = make_tree({"cat": 3, "dog": 3})
    decoded = []
    original = scan._look
    monkeypatch.setattr(scan, "_look", lambda *each: decoded.append(each) or original(*each))
    read(root)
    assert len(decoded) == 6
    read(root)
    assert len(decoded) == 6
    corrupt(root / "cat" / "1.png")
    with pytest.raises(CoterieError, match=r"cat/1\.png"):
        read(root)
    with pytest.raises(CoterieError, match=r"cat/1\.png"):  # from the cache as well
        read(root)
    assert len(decoded) == 12


def test_only_headers_are_read_of_very_many_files(make_tree, monkeypatch):
    root = make_tree({"cat": 3, "dog": 3})
    corrupt(root / "cat" / "1.png")
    monkeypatch.setattr(scan, "DECODE_AT_MOST", 5)
    assert read(root).skipped == 0  # its header is whole
    (root / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(CoterieError, match=r"cat/1\.png"):
        read(root)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train/cat": 2, "train/dog": 2, "val/cat": 2}, r"val' lacks the class 'dog'"),
        (
            {"train/cat": 2, "train/dog": 2, "test/cat": 2, "test/dog": 1, "test/owl": 1},
            r"train' lacks the class 'owl'",
        ),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 2, "val/dog": 0}, "'dog' in .*val' holds no images"),
        ({"train/cat": 2, "train/dog": 0}, "'dog' in .*train' holds no images"),
        ({"train/cat": 2}, "one class, 'cat'"),
        ({"cat": 2}, "one class, 'cat'"),
        ({"cat": 0, "dog": 0}, "holds no images: expected files such as cat/1.jpg"),
        ({}, "holds no class folders"),
        ({"val/cat": 2, "val/dog": 2}, "holds val/ but no train/"),
        ({"val/cat": 2, "test/cat": 2}, "holds val/ but no train/"),
        (
            {"a/cat": 2, "a/dog": 2, "b/cat": 1, "b/dog": 1},
            r"'a' and 'b' in .* hold folders of the same names \(cat, dog\)",
        ),
        ({"val/cat": 2, "dev/cat": 2, "train/cat": 2}, "both look like the validation split"),
        ({"cat": 1, "dog": 5}, "'cat' has one training sample: too few to carve a test split"),
    ],
)
def test_unusable_trees(make_tree, tmp_path, tree, message):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(CoterieError, match=message):
        read(make_tree(tree))


def test_only_other_files(make_tree):
    root = make_tree({"cat": 0, "dog": 0})
    (root / "cat" / "a.txt").write_text("x")
    with pytest.raises(CoterieError, match=r"holds no images, only 1 \.txt"):
        read(root)


def test_no_folder(tmp_path):
    with pytest.raises(CoterieError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CoterieError, match="file' is not a folder"):
        read(tmp_path / "file")


@pytest.mark.parametrize("function", ["scandir", "stat"])
def test_what_may_not_be_read_is_named(make_tree, monkeypatch, function):
    """The tests may run as root, whom no permission stops."""
    root = make_tree({"cat": 2, "dog": 2})
    forbidden = str(root / "dog") if function == "scandir" else str(root / "dog" / "1.png")
    original = getattr(os, function)

    def refuse(path=".", *arguments, **keywords):
        if str(path) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, function, refuse)
    with pytest.raises(CoterieError, match=f"cannot read '{forbidden}': Permission denied"):
        read(root, "data.skip_bad_images=true")


def test_a_file_that_may_not_be_opened_is_no_broken_image(make_tree, monkeypatch, cache):
    root = make_tree({"cat": 2, "dog": 2})

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_without_waiting", refuse)
        with pytest.raises(CoterieError, match=r"cannot read .*Permission denied"):
            read(root, "data.skip_bad_images=true")
    assert read(root).skipped == 0  # the refusal was not remembered


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TESTING"),
        ("train_images", "val_images", "test_images"),
        ("Training Set", "Validation Set", "Test Set"),
        ("trainset", "devset", "testset"),
        ("images-train", "images-dev", "images-test"),
        ("TrainData", "EvalData", "HoldOut"),
        ("train2017", "val2017", "test2017"),
        ("flowers train", "flowers dev", "flowers test"),
    ],
)
def test_split_names_without_case_and_with_the_usual_words(make_tree, train, validation, test):
    root = make_tree(
        {f"{train}/a": 3, f"{train}/b": 3, f"{validation}/a": 1, f"{validation}/b": 1, f"{test}/a": 2, f"{test}/b": 2}
    )
    raw = read(root)
    assert raw.class_names == ("a", "b")
    assert [len(each) for each in (raw.train, raw.validation, raw.test)] == [6, 2, 4]


@pytest.mark.parametrize("names", [("bus", "train"), ("beaker", "test tube"), ("dev_board", "test_board_1")])
def test_a_class_may_be_called_like_a_split(make_tree, names):
    assert read(make_tree(dict.fromkeys(names, 4))).class_names == names


@pytest.mark.parametrize(
    "tree",
    [
        {"train": 4, "test": 4},
        {"cat": 4, "dog": 4, "Validation": 4},
        {"a/cat": 2, "a/dog": 2, "b/cat": 1, "b/dog": 1, "b/owl": 1},
        {"one/cat": 2, "c/x": 2, "fold/cat": 1, "fold/owl": 2, "gold/cat": 1, "gold/owl": 1, "gold/dog": 1},
        {"cat/train": 4, "cat/test": 4, "dog/train": 2},
    ],
)
def test_splits_never_become_classes(make_tree, tree):
    with pytest.raises(CoterieError, match="expected train/, val/ and test/"):
        read(make_tree(tree))


@pytest.mark.parametrize(
    ("tree", "classes"),
    [
        ({"cat/a/b": 4, "cat/c": 4, "dog/x": 5, "dog/y": 3}, ("cat", "dog")),
        ({"cat": 1, "cat/a": 3, "cat/b": 2, "dog": 2, "dog/a": 2, "dog/b": 2}, ("cat", "dog")),
        ({"cat/images": 3, "dog/images": 3}, ("cat", "dog")),
    ],
)
def test_classes_may_have_folders_of_their_own(make_tree, tree, classes):
    raw = read(make_tree(tree))
    assert raw.class_names == classes
    assert len(raw.train) + len(raw.test) == sum(tree.values())


def test_splits_share_what_else_stands_in_their_names(make_tree):
    pred = {"seg_pred/seg_pred": 2}
    root = make_tree({"seg_train/seg_train/a": 4, "seg_train/seg_train/b": 4, "seg_test/seg_test/a": 2, "seg_test/seg_test/b": 2, **pred})  # fmt: skip
    raw = read(root)
    assert (raw.class_names, len(raw.train), len(raw.test)) == (("a", "b"), 8, 4)
    assert "seg_pred" in " ".join(raw.notes)


def test_what_is_passed_over_is_counted_and_named(make_tree):
    root = make_tree({"train/cat": 4, "train/dog": 4, "test/cat": 1, "test/dog": 1, "drafts/cat": 1})
    (root / "train" / "cat" / "a.heic").write_bytes(b"x")
    (root / "train" / "cat" / "b.HEIC").write_bytes(b"x")
    (root / "test" / "dog" / "notes.txt").write_bytes(b"x")
    (root / "train" / "loose.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    os.mkfifo(root / "train" / "dog" / "pipe.png")
    (root / "train" / "dog" / "gone.png").symlink_to(root / "nowhere.png")
    notes = " | ".join(read(root).notes)
    for expected in ("2 .heic", "1 .txt", "1 no regular file", "1 broken link", "1 image outside", "drafts"):
        assert expected in notes, notes


def test_links_in_circles_end_and_count_each_image_once(make_tree):
    root = make_tree({"cat": 4, "dog": 4})
    for name in ("x", "y"):
        (root / "cat" / name).symlink_to(root / "cat", target_is_directory=True)
    (root / "dog" / "up").symlink_to(root, target_is_directory=True)
    raw = read(root)
    assert len(raw.train) + len(raw.test) == 8
    assert "linked folder" in " ".join(raw.notes)


@pytest.mark.parametrize("target", [".", "..", "../..", "x", "nowhere"])
def test_links_up_and_nowhere_add_no_images(make_tree, target):
    root = make_tree(FULL)
    (root / "train" / "cat" / "x").symlink_to(target)
    raw = read(root)
    assert [np.bincount(each.labels).tolist() for each in (raw.train, raw.validation, raw.test)] == [
        [4, 4],
        [2, 2],
        [3, 3],
    ]
    assert len(raw.notes) == 1


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/cat/x", "train/dog"),
        ("train/cat/x", "train/dog/part"),
        ("train/dog/x", "test/dog"),
        ("train/owl", "train/dog"),
        ("val", "test"),
        ("dev", "train"),
    ],
)
def test_an_image_has_one_class_and_one_split(make_tree, link, target):
    root = make_tree({"train/cat": 4, "train/dog": 4, "train/dog/part": 2, "test/cat": 1, "test/dog": 1})
    (root / link).symlink_to(root / target, target_is_directory=True)
    with pytest.raises(CoterieError, match=r"one class and one split|are one folder"):
        read(root, "data.incomplete_classes=accept")


def test_a_name_that_is_no_text(make_tree):
    root = make_tree({"cat": 4, "dog": 4})
    os.rename(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/\xff.png")
    raw = read(root)  # a file's name is nobody's label
    assert len(raw.train) + len(raw.test) == 8
    os.rename(root / "dog", os.fsencode(root) + b"/\xff\xfe")
    with pytest.raises(CoterieError, match="is not UTF-8"):
        read(root)


def test_incomplete_classes_are_accepted_where_asked_for(make_tree):
    root = make_tree({"train/cat": 5, "train/dog": 5, "train/owl": 1, "train/yak": 0, "test/cat": 2, "test/dog": 1})
    with pytest.raises(CoterieError, match=r"lacks the class 'owl'.*data\.incomplete_classes=accept"):
        read(root)
    raw = read(root, "data.incomplete_classes=accept")
    assert raw.class_names == ("cat", "dog", "owl", "yak")
    assert np.bincount(raw.train.labels, minlength=4).tolist() == [5, 5, 1, 0]
    assert np.bincount(raw.test.labels, minlength=4).tolist() == [2, 1, 0, 0]


def test_a_folder_to_be_measured_is_measured_in_whole(make_tree):
    recipe = load_recipe(None).data
    assert len(read_folder(make_tree({"cat": 5, "dog": 7}, name="plain"), recipe, whole=True).test) == 12
    tested = read_folder(make_tree({"test/cat": 5, "test/dog": 1}, name="tested"), recipe, whole=True)
    assert (len(tested.test), tested.class_names) == (6, ("cat", "dog"))
    full = make_tree(FULL, name="full")
    assert len(read_folder(full, recipe, whole=True).test) == 6
