"""Indexes a tar file in WebDataset's format: a sample consists of members with the same name and different endings, one of them an image and one its class.

The members' headers are read once, so that each image can be read by index. Labels, splits, order and resumption then work as for any
other data set. The library ``webdataset`` streams from the beginning, and knows neither the number of samples nor a position to resume at.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.data.decoding import readable_extensions
from coterie.data.shared import NameList

BLOCK = 512
REGULAR, PAX, LONG_NAME, SPARSE = {b"0", b"\0", b"7"}, b"x", b"L", b"S"
LARGEST_TEXT = 2**20  # bytes of a name, a class or a JSON object
LABEL_KEYS = ("label", "cls", "class")  # in a .json member


class BrokenTar(ValueError):
    """The file is not a tar file, or is damaged or truncated; the message says where."""


class Member(NamedTuple):
    """A regular file in a tar file: its name, and offset and size of its content."""

    name: bytes
    offset: int
    size: int


def members(file: int) -> Iterator[Member]:
    """Yields the regular files of an uncompressed tar file (POSIX.1-1988 to 2001, GNU); only headers are read.

    Args:
        file: descriptor of an open file.

    Raises:
        BrokenTar: the file is damaged; raised after all intact members before the damage.
    """
    end, place = os.fstat(file).st_size, 0
    name: bytes | None = None
    size: int | None = None
    while True:
        header = os.pread(file, BLOCK, place)
        if len(header) < BLOCK:
            raise BrokenTar("it ends without the mark of a tar file's end")
        if header.count(0) == BLOCK:
            return
        own_size = _checked_size(header, place)
        kind, start = header[156:157], place + BLOCK
        count = own_size if size is None or kind not in REGULAR else size
        if start + count > end:
            raise BrokenTar(f"it ends within {os.fsdecode(name or _own_name(header))!r}")
        if kind == PAX:
            records = _pax(os.pread(file, min(count, LARGEST_TEXT), start))
            name = records.get(b"path", name)
            size = int(records[b"size"]) if b"size" in records else size
        elif kind == LONG_NAME:
            name = os.pread(file, min(count, LARGEST_TEXT), start).rstrip(b"\0")
        elif kind == SPARSE:
            raise BrokenTar("it holds sparse files")
        else:
            if kind in REGULAR:
                yield Member(name or _own_name(header), start, count)
            name = size = None
        place = start + -(-count // BLOCK) * BLOCK


def _checked_size(header: bytes, place: int) -> int:
    try:
        if sum(header) - sum(header[148:156]) + 8 * 32 != int(header[148:156].rstrip(b"\0 "), 8):
            raise ValueError
        if header[124] & 0x80:  # too large for octal digits
            return int.from_bytes(header[125:136], "big")
        return int(header[124:136].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        raise BrokenTar("it is no tar file" if not place else f"what stands at byte {place:,} is no member") from None


def _own_name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Parses the records ``length key=value`` of POSIX.1-2001."""
    records = {}
    while content:
        digits, _, rest = content.partition(b" ")
        if not digits.isdigit() or not 0 < int(digits) <= len(content):
            raise BrokenTar("a member's extended header is damaged")
        key, _, value = rest[: int(digits) - len(digits) - 2].partition(b"=")
        records[key] = value
        content = content[int(digits) :]
    return records


def index_of(path: Path) -> dict[str, NDArray[Any]]:
    """Builds the index of a tar file's images and classes.

    Returns:
        ``letters`` and ``bounds`` of the images' names (see :class:`coterie.data.shared.Names`), ``offsets`` and ``sizes`` int64 [n]
        of their content, ``codes`` int32 [n] of their classes, and ``said``: a JSON object in bytes with ``classes`` (texts, by code),
        ``problems`` (name and reason of unusable members) and ``others`` (number of samples without image and class).

    Raises:
        OSError: the file cannot be read.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        return _Index(file).read()
    finally:
        os.close(file)


class _Index:
    """Collects the samples of a tar file."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.names = NameList()
        self.offsets: list[int] = []
        self.sizes: list[int] = []
        self.codes: list[int] = []
        self.classes: dict[str, int] = {}
        self.problems: list[tuple[str, str]] = []
        self.others = 0

    def read(self) -> dict[str, NDArray[Any]]:
        key = b""
        found: list[tuple[bytes, Member]] = []
        try:
            for member in members(self.file):
                folder, slash, base = member.name.rpartition(b"/")
                stem, dot, ending = base.partition(b".")
                if not stem or base.startswith(b"__"):  # hidden, or WebDataset's metadata
                    continue
                if folder + slash + stem != key:
                    self._add(found)
                    key, found = folder + slash + stem, []
                found.append((ending.lower() if dot else b"", member))
            self._add(found)
        except BrokenTar as error:  # the sample at the damage may be incomplete, and is dropped
            self.problems.append(("", str(error)))
        said = {"classes": list(self.classes), "problems": self.problems, "others": self.others}
        names = self.names.names()
        return {
            "letters": names.letters.array,
            "bounds": names.bounds.array,
            "offsets": np.array(self.offsets, dtype=np.int64),
            "sizes": np.array(self.sizes, dtype=np.int64),
            "codes": np.array(self.codes, dtype=np.int32),
            "said": np.frombuffer(json.dumps(said).encode(), dtype=np.uint8),
        }

    def _add(self, found: list[tuple[bytes, Member]]) -> None:
        """Adds a sample, given its members and their endings."""
        pictures = [member for ending, member in found if f".{os.fsdecode(ending)}" in readable_extensions()]
        labels = {ending: member for ending, member in found if ending in {b"cls", b"json"}}
        if not pictures and b"cls" not in labels:
            self.others += bool(found)
            return
        name = (pictures[0] if pictures else labels[b"cls"]).name
        try:
            if len(pictures) != 1:
                raise ValueError(
                    f"there are {len(pictures)} pictures of this name"
                    if pictures
                    else "there is no picture of this name"
                )
            text = self._class(labels)
        except ValueError as error:
            self.problems.append((os.fsdecode(name), str(error)))
            return
        self.names.add(name)
        self.offsets.append(pictures[0].offset)
        self.sizes.append(pictures[0].size)
        self.codes.append(self.classes.setdefault(text, len(self.classes)))

    def _class(self, labels: dict[bytes, Member]) -> str:
        """Returns a sample's class as text: the content of .cls, or the value of one of :data:`LABEL_KEYS` in .json.

        Raises:
            ValueError: there is no valid class.
        """
        if b"cls" in labels:
            text = self._text(labels[b"cls"]).strip()
        elif b"json" in labels:
            said = json.loads(self._text(labels[b"json"]))
            values = [said[key] for key in LABEL_KEYS if key in said] if isinstance(said, dict) else []
            if not values or not isinstance(values[0], (int, str)) or isinstance(values[0], bool):
                raise ValueError(f"its .json names no class under {', '.join(LABEL_KEYS)}")
            text = str(values[0]).strip()
        else:
            raise ValueError("it has no class: expected a member of the same name with the ending .cls or .json")
        if not text or re.fullmatch(r"-\d+", text):
            raise ValueError(f"its class is {text!r}")
        return text

    def _text(self, member: Member) -> str:
        try:
            return os.pread(self.file, min(member.size, LARGEST_TEXT), member.offset).decode()
        except UnicodeDecodeError:
            raise ValueError("its class is no text") from None
