"""Documents of a corpus, and counters of what is left out while reading them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal["text", "completion", "chat"]
Content = str | tuple[str, str] | list[dict[str, Any]]


class Document(NamedTuple):
    """Attributes:
    where: its location, for messages.
    content: a text; a prompt and its completion; or the messages of a chat.
    group: documents of one group are in the same split; None: the document is its own group.
    """

    where: str
    content: Content
    group: str | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether there is nothing to learn from."""
        if isinstance(self.content, list):
            return not self.content
        return not (self.content[1] if isinstance(self.content, tuple) else self.content).strip()

    def encoded(self) -> bytes:
        """Return the content as UTF-8, for digests.

        Raises:
            UnicodeEncodeError: the source was not UTF-8, or it holds unpaired surrogates.
        """
        return _plain(self.content).encode()


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, tuple):
        return "\0".join(content)
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)


def plain_text(content: Content) -> str:
    """Return a document's content as one text, without a chat template, to train a tokenizer on."""
    if isinstance(content, list):
        return "\n".join(str(message.get("content") or "") for message in content)
    return content if isinstance(content, str) else "".join(content)


@dataclass
class Tally:
    """Counts documents while they are read.

    Attributes:
        unreadable: documents left out because they are not UTF-8.
        empty: documents left out because they are empty.
        divided: text files divided into several documents.
    """

    unreadable: int = 0
    empty: int = 0
    divided: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """The documents of one split; they can be read repeatedly.

    Attributes:
        key: a digest that changes with the documents.
        read: iterates over the documents and counts them.
    """

    key: str
    read: Callable[[Tally], Iterator[Document]]


def digest(data: bytes) -> int:
    """Return a 64-bit digest that identifies a document."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
