from __future__ import annotations

import io
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from PIL import Image

from coterie.errors import CoterieError, RunError
from coterie.recipe import load_recipe
from coterie.tasks.images.data import parquet_index, rows
from coterie.tasks.images.data.archives import folder_of_archives
from coterie.tasks.images.data.reading import read_data

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

SPLIT = {
    "train-00000-of-00002": 9,
    "train-00001-of-00002": 12,
    "validation-00000-of-00001": 6,
    "test-00000-of-00001": 3,
}
NAMES = ["cat", "dog", "owl"]


def picture(number, size=(40, 30)):
    generator = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def make_parquet(tmp_path):
    """Write ``{"train-0": 5, ...}`` rows of 3 classes, four in a row group, and return their folder; ``change(file, columns)`` may change the columns."""

    def make(files, change=lambda file, columns: None, group=4, compression="snappy"):
        root, count = tmp_path / "rows", 0
        for name, samples in files.items():
            columns = {
                "image": [
                    {"bytes": picture(count + number), "path": f"{count + number}.png"} for number in range(samples)
                ],
                "label": [(count + number) % 3 for number in range(samples)],
            }
            change(name, columns)
            count += samples
            path = root / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table(columns), path, row_group_size=group, compression=compression)
        return root

    return make


def read(place, *overrides, **keywords):
    return read_data(load_recipe(None, [f"data.name={place}", "data.validation=0", *overrides]).data, **keywords)


def pixels_of(number):
    return np.asarray(Image.open(io.BytesIO(picture(number))))


@pytest.mark.parametrize(
    "form", ["{root}", "parquet://{root}", "parquet://{root}/*.parquet", "parquet://{root}/{{train,validation,test}}-*"]
)
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_splits_by_the_names_of_the_files(make_parquet, form, compression):
    root = make_parquet(SPLIT, compression=compression)
    raw = read(form.format(root=root))
    assert raw.class_names == ("0", "1", "2")
    assert [len(each) for each in (raw.train, raw.validation, raw.test)] == [21, 6, 3]
    assert raw.train.labels.tolist() == [number % 3 for number in range(21)]
    for number in (0, 8, 9, 20):
        assert np.array_equal(raw.train.pixels(number), pixels_of(number))
    assert np.array_equal(raw.test.pixels(2), pixels_of(29))
    assert raw.train.stored.name(10).endswith("train-00001-of-00002.parquet:1")
    assert len({raw.train.stored.base_name(number) for number in range(21)}) == 21


def test_a_single_file_and_folders_of_splits(make_parquet):
    root = make_parquet({"train/0": 9, "val/0": 3})
    (root / "train" / "._0.parquet").write_bytes(b"hidden")
    assert folder_of_archives(root, ".parquet") == root
    assert read(root).name == "rows"
    assert [len(each) for each in (read(root).train, read(root).test)] == [9, 3]
    raw = read(root / "train" / "0.parquet", "data.validation=0.34")
    assert [len(each) for each in (raw.train, raw.validation, raw.test)] == [3, 3, 3]
    assert len(read(root, measured=["0", "1", "2"]).test) == 3


def test_a_data_set_written_by_datasets_names_its_classes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["owl", "cat"])})
    for split, count in {"train": 10, "test": 4}.items():
        made = {
            "image": [{"bytes": picture(number), "path": None} for number in range(count)],
            "label": [0, 1] * (count // 2),
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(made, features=features).to_parquet(tmp_path / "data" / f"{split}-00000.parquet")
    (tmp_path / "README.md").write_text("a data set")
    raw = read(tmp_path)  # as a copy of a repository of the Hub
    assert raw.name == tmp_path.name
    assert np.array_equal(read(tmp_path / "data").train.pixels(3), raw.train.pixels(3))
    assert raw.class_names == ("owl", "cat")
    assert raw.train.labels.tolist() == [0, 1] * 5
    again = read(f"hf://{tmp_path}")  # by the library, from a memory-mapped file of its own
    assert again.class_names == raw.class_names
    assert type(again.train).__name__ == "Objects"
    assert np.array_equal(again.train.pixels(3), raw.train.pixels(3))
    assert again.train.source.part.cache_files


def test_texts_as_classes_and_bytes_without_a_struct(make_parquet):
    def change(file, columns):
        columns["image"] = [each["bytes"] for each in columns["image"]]
        columns["label"] = [[" owl", "cat"][number] for number in np.arange(len(columns["label"])) % 2]

    raw = read(make_parquet({"a": 10, "b": 10}, change), "data.validation=0.25")
    assert raw.class_names == ("cat", "owl")
    assert [np.bincount(each.labels).tolist() for each in (raw.train, raw.validation, raw.test)] == [
        [6, 6],
        [2, 2],
        [2, 2],
    ]


def test_rows_without_a_class_or_a_picture(make_parquet):
    def change(file, columns):
        if file == "train-0":
            columns["label"][2] = None
            columns["image"][5] = None
            columns["image"][6] = {"bytes": picture(6)[:70], "path": None}
            columns["image"][7] = {"bytes": None, "path": "/some/where.png"}
        if file == "test-0":
            columns["label"] = [-1] * len(columns["label"])

    root = make_parquet({"train-0": 12, "validation-0": 3, "test-0": 3}, change)
    with pytest.raises(CoterieError, match=r"train-0\.parquet:2': the row has no class"):
        read(root)
    raw = read(root, "data.skip_bad_images=true")
    assert raw.skipped == 4
    assert len(raw.train) == 8
    assert len(raw.test) == 3  # the lone validation split
    assert "left out the test split, whose rows have no classes" in raw.notes
    assert "left out 1 row without a class (data.skip_bad_images)" in raw.notes
    for number, expected in enumerate([0, 1, 3, 4, 8, 9, 10, 11]):
        assert np.array_equal(raw.train.pixels(number), pixels_of(expected))

    def unlabelled(file, columns):
        change(file, columns)
        columns["label"] = [number % 3 for number in range(len(columns["label"]))]

    with pytest.raises(CoterieError, match=r"train-0\.parquet:5' and 2 more: the row holds no picture"):
        read(make_parquet({"train-0": 12, "validation-0": 3}, unlabelled))


@pytest.mark.parametrize("kind", ["uint8", "uint64", "int8", "dictionary", "large_string", "string_view"])
def test_labels_of_every_type_of_numbers_and_texts(make_parquet, kind):
    texts = kind in {"dictionary", "large_string", "string_view"}

    def change(file, columns):
        values = [None if number == 1 else f"c{number % 3}" if texts else number % 3 for number in range(12)]
        if kind == "dictionary":
            columns["label"] = pyarrow.array(values).dictionary_encode()
        else:
            columns["label"] = pyarrow.array(values, type=getattr(pyarrow, kind)())

    raw = read(make_parquet({"train-0": 12, "test-0": 12}, change), "data.skip_bad_images=true")
    assert raw.class_names == (("c0", "c1", "c2") if texts else ("0", "1", "2"))
    assert raw.train.labels.tolist() == [number % 3 for number in range(12) if number != 1]


def test_paths_instead_of_pictures_and_columns_of_one_name_are_refused(make_parquet, tmp_path):
    def paths_only(file, columns):
        columns["image"] = pyarrow.array(
            [{"bytes": None, "path": "a.png"} for _ in columns["label"]],
            type=pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )

    with pytest.raises(CoterieError, match=r"the column image\.bytes is empty; files with paths of pictures"):
        read(make_parquet({"a": 6}, paths_only), "data.skip_bad_images=true")
    table = pyarrow.table([[picture(0)], [0], [1]], names=["image", "label", "label"])
    parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(CoterieError, match=r"twice\.parquet' has several columns 'label'"):
        read(tmp_path / "twice.parquet")
    table = pyarrow.table({"image": [picture(0)], "label": pyarrow.array([2**63 + 1], type=pyarrow.uint64())})
    parquet.write_table(table, tmp_path / "large.parquet")
    with pytest.raises(CoterieError, match="the column label holds a number that is no class number"):
        read(tmp_path / "large.parquet")


def test_files_in_other_folders_are_not_passed_over(make_parquet):
    root = make_parquet({"train/a b/x": 6, "test/x": 3})
    for place in (root, f"parquet://{root}"):
        with pytest.raises(
            CoterieError, match=r"such as '.*/x\.parquet': name those to read, as .*parquet://.*/\*\*/\*\.parquet"
        ):
            read(place)
    raw = read(f"parquet://{root}/train/**/*.parquet", "data.test=0")
    assert len(raw.train) == 6


def rename(old, new):
    return lambda file, columns: columns.update({new: columns.pop(old)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename("image", "photo"), "has the columns label, photo; expected image or img or picture, and label"),
        (rename("label", "kind"), "has the columns image, kind; expected image"),
        (lambda file, columns: columns.update(image=["a.png"] * 6), "the column image holds string, expected encoded pictures"),
        (lambda file, columns: columns.update(label=[0.5] * 6), "the column label holds double, expected class numbers or names"),
        (lambda file, columns: columns.update(label=["0", "cat"] * 3), "names classes by numbers and by texts: '0' and 'cat'"),
        (lambda file, columns: columns.update(label=[10**12 + number % 2 for number in range(6)]), "labels are class numbers from 0 on"),
    ],
)  # fmt: skip
def test_columns_of_no_certain_meaning_are_refused(make_parquet, change, message):
    with pytest.raises(CoterieError, match=message):
        read(make_parquet({"a": 6}, change))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "parquet://{root}/train-{{000..004}}.parquet",
            r"there is no parquet file .*train-000\.parquet' and 4 more of 5",
        ),
        ("parquet://{root}/none-*", "there are no parquet files"),
        ("parquet://s3://x/y.parquet", "expected files of this machine"),
        ("parquet://{root}/test-00000-of-00001.parquet", "holds test but no train"),
    ],
)
def test_unusable_places(make_parquet, place, message):
    with pytest.raises(CoterieError, match=message):
        read(place.format(root=make_parquet(SPLIT)))


def test_a_damaged_file_is_named(make_parquet):
    root = make_parquet(SPLIT)
    whole = (root / "train-00001-of-00002.parquet").read_bytes()
    for content in (whole[:200], b"", b"PAR1" + whole[4:-4] + b"PAR2"):
        (root / "train-00001-of-00002.parquet").write_bytes(content)
        with pytest.raises(CoterieError, match=r"cannot read '.*train-00001-of-00002\.parquet': \S"):
            read(root)


def test_the_second_start_reads_no_file_until_it_changes(make_parquet, monkeypatch):
    root = make_parquet(SPLIT)
    opened, original = [], parquet_index.open_parquet
    monkeypatch.setattr(
        parquet_index, "open_parquet", lambda path, fs: opened.append(os.path.basename(path)) or original(path, fs)
    )
    first = read(root, "data.workers=0")
    assert len(opened) == 4
    again = read(root, "data.workers=0")
    os.utime(root / "test-00000-of-00001.parquet", ns=(1, 1))
    read(root, "data.workers=0")
    assert opened[4:] == ["test-00000-of-00001.parquet"]
    assert np.array_equal(again.train.labels, first.train.labels)


def test_a_worker_is_sent_a_handle_and_subsets_read_the_same_rows(make_parquet):
    stored = read(make_parquet(SPLIT)).train.stored
    assert len(ForkingPickler.dumps(stored)) < 4_000
    again = pickle.loads(pickle.dumps(stored.take(np.array([20, 3]))))
    assert again.open(0).read() == stored.open(20).read() == picture(20)
    assert again.open(1).read() == picture(3)
    assert stored.head(3, 10) == picture(3)[:10]


def test_a_row_group_is_decoded_once_while_it_is_kept_and_memory_is_bounded(make_parquet, monkeypatch):
    stored = read(make_parquet({"train-0": 40})).train.stored
    read_groups, original = [], rows.ParquetRows._read
    monkeypatch.setattr(
        rows.ParquetRows, "_read", lambda self, group: read_groups.append(group) or original(self, group)
    )
    for number in range(len(stored)):
        stored.open(number)
    assert read_groups == list(range(max(read_groups) + 1))
    monkeypatch.setattr(rows, "KEPT", 2 * stored._group(0).nbytes)
    bounded = stored.take(np.arange(20))
    for group in range(4):
        bounded._group(group)
        assert 1 <= len(bounded._decoded) <= 2


def test_the_order_keeps_no_more_row_groups_than_fit(make_parquet, monkeypatch):
    """Whatever the sizes: an epoch decodes each row group about once if a process keeps what ``KEPT`` allows."""
    root = make_parquet({"train-0": 240, "test-0": 3}, group=8)
    for kept in (4, 8, 40):
        stored = read(root).train.stored
        monkeypatch.setattr(rows, "KEPT", kept * int(stored.groups.array[3].max()))
        found = stored.shards
        assert found.streams * (found.buffer / 8 + 1) <= kept + found.streams / 8
        assert 1 <= found.streams <= max(1, kept // 2)


def test_a_sample_reads_few_row_groups(make_parquet):
    stored = read(make_parquet({"train-0": 240, "test-0": 3}, group=8)).train.stored
    assert len(set(stored.sample(100).tolist())) == len(stored.sample(100)) == 80
    assert len(set(stored._groups[stored.sample(100)])) == 10
    assert len(stored.sample(7)) == 7
    alone = stored.take(np.arange(3))
    assert alone.sample(100).tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_with_workers_see_every_row_once_and_go_on_at_a_step(make_parquet, require_shares, workers):
    require_shares(make_parquet({f"train-{number}": 8 for number in range(4)} | {"test-0": 3}), workers)


class TestHub:
    """A filesystem of fsspec on this machine stands for the Hub's, which has the same interface."""

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        import huggingface_hub
        from fsspec.implementations.dirfs import DirFileSystem

        class Hub(DirFileSystem):
            def __init__(self):
                super().__init__(str(tmp_path / "hub"), auto_mkdir=True, target_protocol="file")
                self.opened = []

            def open(self, path, *arguments, **keywords):
                self.opened.append(path)
                return super().open(path, *arguments, **keywords)

        made = Hub()
        monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: made)
        return tmp_path / "hub" / "datasets"

    @pytest.mark.parametrize("place", ["own", "own/data", "own@refs%2Fconvert%2Fparquet/default"])
    @pytest.mark.parametrize("name", ["{}-00000-of-00001.parquet", "{}/0000.parquet"])
    def test_rows_are_read_where_they_lie(self, hub, make_parquet, load, place, name):
        root = make_parquet({"train": 12, "test": 3})
        for split in ("train", "test"):
            path = hub / "me" / place / name.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            (root / f"{split}.parquet").rename(path)
        raw = read("hf://me/own", "data.stream=true")
        assert [len(raw.train), len(raw.test)] == [12, 3]
        assert np.array_equal(raw.train.pixels(7), pixels_of(7))
        assert any("were not checked before" in note for note in raw.notes)
        data = load("data=hf://me/own", "data.stream=true", "data.in_memory=false", "data.image_size=32", "data.workers=2", batch_size=4)  # fmt: skip
        assert sum(len(batch.indices) for batch in data.train.epoch(0)) == 8  # of 12 less those of validation

    def test_what_cannot_be_streamed_is_refused(self, hub, make_parquet):
        with pytest.raises(CoterieError, match=r"me/none: the data set has no parquet files"):
            read("hf://me/none", "data.stream=true")
        with pytest.raises(CoterieError, match=r"data: stream=true applies to hf://user/dataset, not to digits"):
            read("digits", "data.stream=true")
        root = make_parquet({"a/train": 6, "b/train": 6})
        (hub / "me").mkdir(parents=True)
        root.rename(hub / "me" / "two")
        with pytest.raises(CoterieError, match="has the configurations a, b: choose one as hf://me/two:a"):
            read("hf://me/two", "data.stream=true")
        assert len(read("hf://me/two:b", "data.stream=true", measured=["0", "1", "2"]).test) == 6

    def test_a_broken_picture_ends_the_run_with_its_name(self, hub, make_parquet):
        def change(file, columns):
            columns["image"][1] = {"bytes": b"no picture", "path": None}

        make_parquet({"train-0": 6}, change).rename((hub / "me").mkdir(parents=True) or hub / "me" / "own")
        raw = read("hf://me/own", "data.stream=true", "data.test=0", "data.skip_bad_images=true")
        assert any("a picture that cannot be decoded stops the training" in note for note in raw.notes)
        with pytest.raises(RunError, match=r"cannot decode 'datasets/me/own/train-0\.parquet:1'"):
            raw.train.pixels(1)
