"""Indexes a parquet file: its row groups, and the class of each row. Images are not read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coterie.data.cache import digest, remembered_arrays
from coterie.errors import CoterieError
from coterie.tasks.images.data.rows import open_parquet
from coterie.tasks.images.data.stored import file_state

IMAGE_COLUMNS = ("image", "img", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls")


class Index(NamedTuple):
    """What is known of a parquet file without its images.

    Attributes:
        rows, sizes: int64 [G], rows and uncompressed image bytes of each row group.
        codes: int64 [n], index of each row's class in ``classes``, negative for none.
        classes: class texts or numbers.
        column: path of the column with the encoded images.
        named: whether the file's metadata names the classes, in order.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]
    column: str
    named: bool

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]]) -> Index:
        said = json.loads(arrays["said"].tobytes())
        return cls(
            arrays["rows"], arrays["sizes"], arrays["codes"], tuple(said["classes"]), said["column"], said["named"]
        )


def index_of(paths: Sequence[str], filesystem: Any, number: int) -> dict[str, NDArray[Any]]:
    """Returns the index of a file, cached until the file changes.

    Raises:
        CoterieError: the file cannot be read or lacks a column.
    """
    path = paths[number]

    def compute() -> dict[str, NDArray[Any]]:
        try:
            return _read_index(path, filesystem)
        except OSError as error:
            raise CoterieError(f"cannot read {path!r}: {error.strerror or error}") from None

    return remembered_arrays("parquet", digest("parquet 1", file_state(path, filesystem)), compute)


def _read_index(path: str, filesystem: Any) -> dict[str, NDArray[Any]]:
    import pyarrow

    file = open_parquet(path, filesystem)
    column, label = _columns(path, file.schema_arrow)
    try:
        values = file.read(columns=[label], use_threads=False).column(0)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from None
    names = _feature_names(file.schema_arrow, label)
    classes, codes = _codes(values, names, path, label)
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    sizes = [
        sum(
            part.total_uncompressed_size
            for part in map(group.column, range(group.num_columns))
            if part.path_in_schema == column
        )
        for group in groups
    ]
    if groups and all(_is_null(group, column) for group in groups):
        raise CoterieError(
            f"{path!r}: the column {column} is empty; files with paths of pictures but without the pictures cannot be read"
        )
    said = {"classes": classes, "column": column, "named": names is not None}
    return {
        "rows": np.array([group.num_rows for group in groups], dtype=np.int64),
        "sizes": np.array(sizes, dtype=np.int64),
        "codes": codes,
        "said": np.frombuffer(json.dumps(said).encode(), dtype=np.uint8),
    }


def _codes(values: Any, names: list[str] | None, path: str, label: str) -> tuple[list[str], NDArray[np.int64]]:
    """Returns the class texts or numbers of a column, and each row's index among them, -1 for none.

    Raises:
        CoterieError: a number is too large, or has no name although the file names the classes.
    """
    import pyarrow

    if pyarrow.types.is_dictionary(values.type):  # pandas' categories
        values = values.cast(values.type.value_type)
    if not len(values):
        return names or [], np.empty(0, np.int64)
    if not pyarrow.types.is_integer(values.type):
        encoded = values.combine_chunks().cast(pyarrow.large_string()).dictionary_encode()
        texts = [text.strip() for text in encoded.dictionary.to_pylist()]
        of_text = np.array([number if text else -1 for number, text in enumerate(texts)] + [-1], dtype=np.int64)
        return texts, of_text[np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)]
    try:
        numbers = np.asarray(values.cast(pyarrow.int64()).fill_null(-1).to_numpy(), dtype=np.int64)
    except pyarrow.ArrowInvalid:
        raise CoterieError(f"{path!r}: the column {label} holds a number that is no class number") from None
    found = np.unique(numbers[numbers >= 0])
    if names is None:
        return [str(each) for each in found.tolist()], np.where(numbers < 0, -1, np.searchsorted(found, numbers))
    if len(found) and found[-1] >= len(names):
        raise CoterieError(f"{path!r} names {len(names)} classes, and there is the class {found[-1]}")
    return names, np.maximum(numbers, -1)


def _is_null(group: Any, column: str) -> bool:
    """Whether the file says that a row group has no value in this column."""
    for number in range(group.num_columns):
        part = group.column(number)
        if part.path_in_schema == column and part.statistics is not None and part.statistics.has_null_count:
            return group.num_rows > 0 and part.statistics.null_count == group.num_rows
    return False


def _columns(path: str, schema: Any) -> tuple[str, str]:
    """Returns the path of the column with the encoded images, and the name of the column with the classes.

    Raises:
        CoterieError: there is no such column.
    """
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    found = [name for name in IMAGE_COLUMNS if name in schema.names]
    label = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if not found or label is None:
        raise CoterieError(
            f"{path!r} has the columns {', '.join(schema.names)}; expected {' or '.join(IMAGE_COLUMNS)}, and {' or '.join(LABEL_COLUMNS)}"
        )
    twice = [name for name in (found[0], label) if schema.names.count(name) > 1]
    if twice:
        raise CoterieError(f"{path!r} has several columns {twice[0]!r}")
    kind, classes = schema.field(found[0]).type, schema.field(label).type
    if types.is_dictionary(classes):
        classes = classes.value_type
    if types.is_struct(kind) and any(part.name == "bytes" and is_bytes(part.type) for part in kind):
        column = f"{found[0]}.bytes"
    elif is_bytes(kind):
        column = found[0]
    else:
        raise CoterieError(
            f"{path!r}: the column {found[0]} holds {kind}, expected encoded pictures (binary, or a struct with bytes)"
        )
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    if not (types.is_integer(classes) or any(is_text(classes) for is_text in texts)):
        raise CoterieError(f"{path!r}: the column {label} holds {classes}, expected class numbers or names")
    return column, label


def _feature_names(schema: Any, label: str) -> list[str] | None:
    """Returns the class names that ``datasets`` wrote into the file; None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
