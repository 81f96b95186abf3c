"""One document of a corpus, and what is counted while documents are read."""

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
    where: its place, for messages.
    content: a text; a prompt and its completion; or the messages of a chat.
    group: documents of one group stand in the same split; None: the document stands for itself.
    """

    where: str
    content: Content
    group: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from."""
        if isinstance(self.content, list):
            return not self.content
        return not (self.content[1] if isinstance(self.content, tuple) else self.content).strip()

    def encoded(self) -> bytes:
        """The content as UTF-8, for digests.

        Raises:
            UnicodeEncodeError: it was not UTF-8 where it was read, or holds halves of surrogate pairs.
        """
        return _plain(self.content).encode()


def _plain(content: Content) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, tuple):
        return "\0".join(content)
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)


def plain_text(content: Content) -> str:
    """A document's words in one text, without a template: what a tokenizer can be trained on."""
    if isinstance(content, list):
        return "\n".join(str(message.get("content") or "") for message in content)
    return content if isinstance(content, str) else "".join(content)


@dataclass
class Tally:
    """What happened to documents while they were read.

    Attributes:
        unreadable: left out, since they are not UTF-8.
        empty: left out, since nothing stands in them.
        divided: text files that were divided into several documents.
    """

    unreadable: int = 0
    empty: int = 0
    divided: int = 0

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """The documents of one split, which can be read again and again.

    Attributes:
        key: a digest that changes with the documents.
        read: gives them one after the other, and counts.
    """

    key: str
    read: Callable[[Tally], Iterator[Document]]


def digest(data: bytes) -> int:
    """64 bits that tell documents apart."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
