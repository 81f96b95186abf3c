from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest

from coterie.data.shared import Names
from coterie.tasks.images.data.tars import BrokenTar, index_of, members

LONG = "folder/" * 20 + "x" * 90
NAMES = [
    "a.jpg",
    "b/c.cls",
    LONG + ".jpg",
    "\u00e4\u4e2d.png",
    "empty.cls",
    "d" * 99 + ".jpg",
    "p" * 120 + "/" + "n" * 90,
]


def listed(path):
    with tarfile.open(path) as archive:
        return [(os.fsencode(each.name), each.offset_data, each.size) for each in archive if each.isfile()]


def found(path):
    with path.open("rb") as file:
        return [tuple(each) for each in members(file.fileno())]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_pythons_tarfile_finds(tmp_path, form):
    path = tmp_path / "x.tar"
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or len(name) < 100 or name.startswith("p")]
    with tarfile.open(path, "w", format=form) as archive:
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.mtime = 12.5 if form == tarfile.PAX_FORMAT else 12  # webdataset writes fractions, in extended headers
            entry.size = 0 if name.startswith("empty") else 500 + 300 * number
            archive.addfile(entry, io.BytesIO(bytes([number + 1]) * entry.size))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        archive.addfile(tarfile.TarInfo("last.cls"))
    assert found(path) == listed(path)
    assert len(found(path)) == len(names) + 1


@pytest.mark.parametrize("kept", ["header", "content", "members", "nothing"])
def test_a_tar_that_ends_early_gives_what_is_whole_and_says_so(make_tars, kept):
    path = make_tars({"x-000": 3}) / "x-000.tar"
    whole = listed(path)
    end = {"header": whole[4][1] - 100, "content": whole[4][1] + 10, "members": whole[4][1] - 512, "nothing": 0}[kept]
    path.write_bytes(path.read_bytes()[:end])
    message = "it ends within" if kept == "content" else "without the mark"
    seen = []
    with path.open("rb") as file, pytest.raises(BrokenTar, match=message):
        seen.extend(tuple(each) for each in members(file.fileno()))
    assert seen == (whole[:4] if end else [])


def test_what_is_no_tar_is_called_so(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(BrokenTar, match="it is no tar file"):
        found(tmp_path / "x.tar")


def test_damage_never_ends_otherwise(make_tars):
    """Whatever stands in the file: members, or a BrokenTar."""
    path = make_tars({"x-000": 3}, form=tarfile.GNU_FORMAT) / "x-000.tar"
    _, start, size = listed(path)[-1]
    whole = path.read_bytes()[: start + size]  # without the mark of its end
    generator = np.random.default_rng(0)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(20):
            data[generator.integers(len(data))] = generator.integers(256)
        path.write_bytes(data[: generator.integers(len(data))])
        said = json.loads(index_of(path)["said"].tobytes())
        assert said["problems"]


def test_classes_of_cls_and_json_and_what_cannot_be_used(make_tars):
    def change(tar, number, sample):
        picture = sample["png"]
        other = {
            1: {"png": picture, "json": b'{"width": 3, "label": 7}'},
            2: {"png": picture, "json": b'{"width": 3}'},
            3: {"png": picture},
            4: {"cls": b"1"},
            5: {"png": picture, "jpg": picture, "cls": b"1"},
            6: {"png": picture, "cls": b"\xff\xfe"},
            7: {"png": picture, "cls": b"-1"},
            8: {"txt": b"no picture"},
            9: {"png": picture, "seg.png": picture, "txt": b"x", "cls": b" cat\n", "json": b"{"},
            10: {"png": picture, "json": b"{"},
        }.get(number)
        if other is not None:
            sample.clear()
            sample.update(other)

    index = index_of(make_tars({"x-000": 11}, change) / "x-000.tar")
    said = json.loads(index["said"].tobytes())
    names = Names(index["letters"], index["bounds"])
    assert [names[number].decode()[-8:] for number in range(len(names))] == ["0000.png", "0001.png", "0009.png"]
    assert [said["classes"][code] for code in index["codes"]] == ["0", "7", "cat"]
    assert said["others"] == 1
    assert [(name[-8:-4], reason.partition(":")[0]) for name, reason in said["problems"]] == [
        ("0002", "its .json names no class under label, cls, class"),
        ("0003", "it has no class"),
        ("0004", "there is no picture of this name"),
        ("0005", "there are 2 pictures of this name"),
        ("0006", "its class is no text"),
        ("0007", "its class is '-1'"),
        ("0010", "Expecting property name enclosed in double quotes"),
    ]
