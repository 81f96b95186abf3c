"""Documents of a data set of the Hugging Face Hub, downloaded or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from coterie.data.records import load_hub
from coterie.data.split_names import SPLITS, splits_by_name
from coterie.errors import CoterieError
from coterie.tasks.language.data.documents import Document, Kind, Source, Tally
from coterie.tasks.language.data.readers import columns_key, document_of, kind_of_row
from coterie.tasks.language.settings import LanguageData

HUB = "hf-text://"


def hub_sources(settings: LanguageData) -> tuple[Kind, dict[str, Source]]:
    """Open ``hf-text://user/dataset`` or ``hf-text://user/dataset:configuration``.

    With ``data.stream``, rows are streamed from the Hub's current revision; the key depends on that revision.

    Raises:
        CoterieError: the extra ``hub`` is missing, or the data set is not available, has no rows, or has no known columns.
    """
    place = settings.name.removeprefix(HUB)
    options: dict[str, Any] = {}
    if settings.stream is not None:
        options = {"streaming": True, "revision": _revision(settings.name, place.partition(":")[0])}
    found = load_hub(settings.name, place, **options)
    parts = {split: found[each] for split, each in splits_by_name(map(str, found), settings.name).items()}
    if not parts:
        raise CoterieError(
            f"data={settings.name} has no split {' or '.join(SPLITS)}, only {', '.join(map(str, found))}"
        )
    first = next(iter(parts.values()))
    row = next(iter(first), None)
    if row is None:
        raise CoterieError(f"data={settings.name} holds no rows")
    kind = kind_of_row(row, settings, f"data={settings.name}")
    sources = {}
    for split, part in parts.items():
        content = options.get("revision") or part._fingerprint  # of a downloaded split's rows and their transformations
        key = f"{settings.name} {split} {content} {settings.stream} {columns_key(kind, settings)}"
        sources[split] = Source(key, partial(_read, part, kind, settings, f"data={settings.name}, {split}"))
    return kind, sources


def _revision(name: str, place: str) -> str:
    """Return the data set's current commit."""
    import huggingface_hub

    try:
        found = huggingface_hub.HfApi().dataset_info(place).sha
    except Exception as error:  # network, permissions: the library raises many kinds
        raise CoterieError(f"data={name} cannot be streamed: {' '.join(str(error).split())[:160]}") from None
    return str(found)


def _read(part: Any, kind: Kind, settings: LanguageData, where: str, tally: Tally) -> Iterator[Document]:
    rows = enumerate(islice(part, settings.stream), 1)
    while True:
        try:
            number, record = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the network, in the middle of a stream
            raise CoterieError(f"{where}: {' '.join(str(error).split())[:160]}") from None
        yield document_of(record, kind, settings, f"{where}, row {number}")
