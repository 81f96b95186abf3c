from __future__ import annotations

import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from coterie.errors import CoterieError, RunError
from coterie.recipe import load_recipe
from coterie.tasks.images.data import shards
from coterie.tasks.images.data.archives import folder_of_archives
from coterie.tasks.images.data.reading import read_data

SPLIT = {"train-000": 9, "train-001": 12, "val-000": 6, "test-000": 3}


def read(place, *overrides, **keywords):
    return read_data(load_recipe(None, [f"data.name={place}", "data.validation=0", *overrides]).data, **keywords)


def names(samples):
    return [samples.stored.base_name(number).decode() for number in range(len(samples))]


@pytest.mark.parametrize(
    "form", ["{root}", "wds://{root}", "wds://{root}/{{train,val,test}}-{{000..000}}.tar", "wds://{root}/*.tar"]
)
def test_splits_by_the_names_of_the_files(make_tars, form):
    root = make_tars(SPLIT)
    raw = read(form.format(root=root))
    assert raw.class_names == ("0", "1", "2")
    assert [len(each) for each in (raw.validation, raw.test)] == [6, 3]
    assert len(raw.train) == (9 if "000..000" in form else 21)
    assert raw.train.labels.tolist() == [number % 3 for number in range(len(raw.train))]
    assert raw.train.pixels(4).shape == (30, 40, 3)


def test_folders_of_splits_and_class_names_beside_them(make_tars):
    root = make_tars({"train/000": 9, "validation/000": 3})
    for folder in ("train", "validation"):
        (root / folder / "classes.txt").write_text("cat\ndog\nowl\ncow\n")
    assert folder_of_archives(root, ".tar") == root
    raw = read(root, "data.incomplete_classes=accept")
    assert raw.class_names == ("cat", "dog", "owl", "cow")
    assert (len(raw.train), raw.validation, len(raw.test)) == (9, None, 3)
    assert len(read(root, measured=["cat", "dog", "owl", "cow"]).test) == 3


def test_texts_as_classes_and_splits_carved_where_there_are_none(make_tars):
    def change(tar, number, sample):
        sample["cls"] = [b"owl", b"cat"][number % 2]

    raw = read(make_tars({"a-000": 10, "a-001": 10}, change), "data.validation=0.25")
    assert raw.class_names == ("cat", "owl")
    assert [np.bincount(each.labels).tolist() for each in (raw.train, raw.validation, raw.test)] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]
    assert not set(names(raw.train)) & set(names(raw.test))


def test_a_folder_of_pictures_with_an_archive_beside_it_stays_one(make_tree, tmp_path):
    root = make_tree({"train/a": 1, "train/b": 1})
    (root / "pictures.tar").write_bytes(b"x")
    assert not folder_of_archives(root, ".tar")


def test_broken_members_are_named_or_left_out_and_counted(make_tars):
    def change(tar, number, sample):
        if tar == "train-001" and number in {2, 5}:
            del sample["cls"]
        if tar == "train-000" and number == 4:
            sample["png"] = sample["png"][:70]

    root = make_tars(SPLIT, change)
    with pytest.raises(CoterieError, match=r"train-001\.tar/pictures/001_0002\.png' and 1 more: it has no class"):
        read(root)
    raw = read(root, "data.skip_bad_images=true")
    assert raw.skipped == 3
    assert len(raw.train) == 18
    assert any("train-001.tar/pictures/001_0002.png: it has no class" in note for note in raw.notes)
    whole = (root / "train-001.tar").read_bytes()
    (root / "train-001.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CoterieError, match=r"train-001\.tar' and 1 more: it ends within|001_0002"):
        read(root)
    assert read(root, "data.skip_bad_images=true").skipped == 3


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("wds://{root}/train-{{000..004}}.tar", r"there is no tar file .*train-002\.tar' and 2 more of 5"),
        ("wds://{root}/none-*.tar", "there are no tar files"),
        ("wds://http://x/y.tar", "expected files of this machine"),
        ("wds://{root}/{{train-000,other}}.tar", r"other\.tar': its name says no split"),
        ("wds://{root}/val-000.tar", "holds validation but no train"),
    ],
)
def test_unusable_places(make_tars, place, message):
    root = make_tars({**SPLIT, "other": 3})
    with pytest.raises(CoterieError, match=message):
        read(place.format(root=root))


def test_compressed_files_are_refused(make_tars):
    root = make_tars(SPLIT)
    (root / "train-002.tar.gz").write_bytes(b"x")
    with pytest.raises(CoterieError, match=r"train-002\.tar\.gz' is compressed"):
        read(root)


@pytest.mark.parametrize(
    ("classes", "message"), [([b"0", b"cat"], "by numbers and by texts: '0' and 'cat'"), ([b"0", b"5"], "names 3 classes, and there is the class 5")]
)  # fmt: skip
def test_classes_of_no_certain_meaning_are_refused(make_tars, classes, message):
    root = make_tars({"a-000": 6}, lambda tar, number, sample: sample.update(cls=classes[number % 2]))
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(CoterieError, match=message):
        read(root)


def test_the_second_start_reads_no_headers_until_a_file_changes(make_tars, monkeypatch):
    root = make_tars(SPLIT)
    read_first, original = [], shards.index_of
    monkeypatch.setattr(shards, "index_of", lambda path: read_first.append(path.name) or original(path))
    first = read(root)
    assert sorted(read_first) == [f"{name}.tar" for name in sorted(SPLIT)]
    again = read(root)
    os.utime(root / "val-000.tar", ns=(1, 1))
    read(root)
    assert read_first[4:] == ["val-000.tar"]
    assert names(again.train) == names(first.train)
    assert np.array_equal(again.train.pixels(20), first.train.pixels(20))


def test_processes_find_what_one_process_finds(make_tars, monkeypatch):
    monkeypatch.setattr(shards, "INDEXED_ALONE", 0)
    root = make_tars(SPLIT)
    assert names(read(root, "data.workers=2").train) == names(read(root).train)


def test_a_worker_is_sent_a_handle_and_a_tar_that_shrinks_is_named(make_tars):
    root = make_tars(SPLIT)
    stored = read(root).train.stored
    assert len(ForkingPickler.dumps(stored)) < 4_000
    again = pickle.loads(pickle.dumps(stored.take(np.array([20, 3]))))
    assert again.open(0).read() == stored.open(20).read()
    samples = read(root).train
    (root / "train-001.tar").write_bytes(b"")
    with pytest.raises(RunError, match=r"train-001\.tar/pictures/001_0011\.png': the tar file has become shorter"):
        samples.pixels(20)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_with_workers_see_every_sample_once_and_go_on_at_a_step(make_tars, require_shares, workers):
    require_shares(make_tars({f"train-{number:03d}": 8 for number in range(4)} | {"test-000": 3}), workers)
