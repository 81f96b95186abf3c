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
    if pyarrow.types.is_integer(values.type):
        codes = np.asarray(values.fill_null(-1).to_numpy(), dtype=np.int64)
        numbers = np.unique(codes[codes >= 0])
        if names is None:
            classes, codes = (
                [str(each) for each in numbers.tolist()],
                np.where(codes < 0, -1, np.searchsorted(numbers, codes)),
            )
        else:
            classes = names
            if len(numbers) and numbers[-1] >= len(names):
                raise CoterieError(f"{path!r} names {len(names)} classes, and there is the class {numbers[-1]}")
    else:
        encoded = values.combine_chunks().dictionary_encode() if len(values) else values
        classes = [text.strip() for text in encoded.dictionary.to_pylist()] if len(values) else []
        codes = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64) if len(values) else np.empty(0, np.int64)
        codes = np.array([number if text else -1 for number, text in enumerate(classes)] + [-1], dtype=np.int64)[codes]
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    sizes = [
        sum(
            part.total_uncompressed_size
            for part in map(group.column, range(group.num_columns))
            if part.path_in_schema == column
        )
        for group in groups
    ]
    said = {"classes": classes, "column": column, "named": names is not None}
    return {
        "rows": np.array([group.num_rows for group in groups], dtype=np.int64),
        "sizes": np.array(sizes, dtype=np.int64),
        "codes": codes,
        "said": np.frombuffer(json.dumps(said).encode(), dtype=np.uint8),
    }


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
    kind, classes = schema.field(found[0]).type, schema.field(label).type
    if types.is_struct(kind) and any(part.name == "bytes" and is_bytes(part.type) for part in kind):
        column = f"{found[0]}.bytes"
    elif is_bytes(kind):
        column = found[0]
    else:
        raise CoterieError(
            f"{path!r}: the column {found[0]} holds {kind}, expected encoded pictures (binary, or a struct with bytes)"
        )
    if not (types.is_integer(classes) or types.is_string(classes) or types.is_large_string(classes)):
        raise CoterieError(f"{path!r}: the column {label} holds {classes}, expected class numbers or names")
    return column, label


def _feature_names(schema: Any, label: str) -> list[str] | None:
    """Returns the class names that ``datasets`` wrote into the file; None if there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
