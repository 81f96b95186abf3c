"""Networks that read a query and a document together: sentence-transformers' ``CrossEncoder``, and a joint encoder with two vectors (dual pooling)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.hugging_face import read_config, require_place, short_reason
from coterie.tasks.retrieval.encoders import LONGEST, load_encoder
from coterie.tasks.retrieval.library import quiet_sentence_transformers

Pair = tuple[str, str]  # a query and a document
DualPooling = Literal["mean", "cls_sep"]
SIDE = "side"  # of each token: 0 query, 1 document, -1 special token or padding


def is_cross_encoder(name: str) -> bool:
    """Return whether a folder or a name on the Hub is a cross-encoder: saved as one by sentence-transformers, or a sequence classifier of transformers.

    Raises:
        CoterieError: there is no such place.
    """
    folder = Path(name).expanduser()
    said = folder / "config_sentence_transformers.json"
    if said.is_file():
        try:
            kind = json.loads(said.read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise CoterieError(f"{str(said)!r} is damaged: {short_reason(error)}") from None
        if kind is not None:
            return bool(kind == "CrossEncoder")
    if (folder / "modules.json").is_file():
        return False
    return any(each.endswith("ForSequenceClassification") for each in read_config(name).architectures or ())


class Scorer(Protocol):
    """Scores pairs of a query and a document."""

    def scores(self, pairs: Sequence[Pair], batch_size: int, device: torch.device) -> NDArray[np.float32]:
        """Return scores, float32 [N]. The scorer is on the CPU again afterwards."""


def load_cross_encoder(name: str) -> Any:
    """Load a ``CrossEncoder`` with one score per pair, on the CPU in float32.

    Raises:
        CoterieError: it does not exist, has its weights in pickles only, or returns more than one score.
    """
    place = require_place(name, "a cross-encoder")
    if Path(place).is_dir() and not any(Path(place).rglob("*.safetensors")):
        raise CoterieError(f"{name!r} holds no weights in safetensors, the only format that is read")
    with quiet_sentence_transformers() as library:
        try:
            found = library.CrossEncoder(
                place,
                device="cpu",
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except Exception as error:  # files, network, formats: the library raises many kinds
            raise CoterieError(f"{name!r} is no cross-encoder that can be read: {short_reason(error)}") from None
    if found.num_labels != 1:
        raise CoterieError(
            f"{name!r} gives {found.num_labels} numbers for a pair; a cross-encoder that teaches gives one"
        )
    return found.eval()


class LogitScorer:
    """Scores pairs by a cross-encoder's logits, times a factor.

    Args:
        encoder: an encoder from :func:`load_cross_encoder`.
        scale: the factor.
    """

    def __init__(self, encoder: Any, scale: float) -> None:
        self.encoder, self.scale = encoder, scale

    def scores(self, pairs: Sequence[Pair], batch_size: int, device: torch.device) -> NDArray[np.float32]:
        """See :class:`Scorer`. Scores are logits, without the sigmoid that the library applies by default."""
        self.encoder.to(device)
        try:
            found = self.encoder.predict(
                list(pairs), batch_size=batch_size, activation_fn=nn.Identity(), show_progress_bar=False
            )
        finally:
            self.encoder.to("cpu")
        return np.asarray(self.scale * found, dtype=np.float32)


class JointEncoder(nn.Module):
    """Dual pooling: pools the joint encoding of a query and a document into one vector for each; their inner product is the score.

    Each vector is contextualised by the other text, so a query has a different vector with every document. EmbedDistill (arXiv 2301.12005, section 4.2) adds this scorer to
    cross-encoders so that their vectors can be matched. How it pools could not be read: both ways here are reconstructions, and so are vectors of length 1.

    - ``mean``: the mean of the query's tokens, and of the document's; special tokens belong to neither.
    - ``cls_sep``: the first token ([CLS]) for the query, and the last ([SEP]) for the document.

    Args:
        body: a network of transformers without a head; tokens to ``last_hidden_state`` [N, L, D].
        tokenizer: a fast tokenizer of transformers, which knows to which text a token belongs.
        pooling: ``mean`` or ``cls_sep``.
        max_length: largest number of tokens of a pair; the longer text is truncated.

    Raises:
        CoterieError: the tokenizer does not say to which text a token belongs, or lacks the special tokens.
    """

    def __init__(self, body: Any, tokenizer: Any, pooling: DualPooling, max_length: int) -> None:
        super().__init__()
        if not getattr(tokenizer, "is_fast", False):
            raise CoterieError(f"teacher.pooling={pooling} needs a fast tokenizer, got {type(tokenizer).__name__}")
        if pooling == "cls_sep" and (tokenizer.cls_token is None or tokenizer.sep_token is None):
            raise CoterieError(
                "teacher.pooling=cls_sep needs a tokenizer with [CLS] and [SEP]; take teacher.pooling=mean"
            )
        self.body, self.tokenizer, self.pooling, self.max_length = body, tokenizer, pooling, max_length

    @property
    def width(self) -> int:
        """Width of the vectors."""
        return int(self.body.config.hidden_size)

    def tokens(self, pairs: Sequence[Pair], device: torch.device) -> dict[str, Tensor]:
        """Return the inputs of the body, int64 [N, L], and each token's ``side``."""
        queries, documents = zip(*pairs, strict=True)
        found = self.tokenizer(
            list(queries),
            list(documents),
            padding=True,
            truncation="longest_first",
            max_length=self.max_length,
            return_tensors="pt",
        )
        sides = [[-1 if each is None else each for each in found.sequence_ids(row)] for row in range(len(pairs))]
        return {key: value.to(device) for key, value in {**found, SIDE: torch.tensor(sides)}.items()}

    def forward(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return vectors of queries and documents, each [N, D], of length 1."""
        states = self.body(**{key: value for key, value in tokens.items() if key != SIDE}).last_hidden_state
        if self.pooling == "mean":
            pooled = [_mean(states, tokens[SIDE] == side) for side in (0, 1)]
        else:
            there = tokens["attention_mask"].bool()
            places = torch.arange(there.shape[1], device=there.device).expand_as(there)
            ends = (places.masked_fill(~there, there.shape[1]).amin(1), places.masked_fill(~there, -1).amax(1))
            pooled = [states[torch.arange(len(states), device=states.device), each] for each in ends]
        queries, documents = (F.normalize(each.float(), dim=-1) for each in pooled)
        return queries, documents

    @torch.no_grad()
    def encode(self, pairs: Sequence[Pair], batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return vectors of queries and documents, each [N, D] on the CPU. Pairs are sorted by length, so that the longest are encoded together."""
        self.eval().to(device)
        order = sorted(range(len(pairs)), key=lambda number: -len(pairs[number][0]) - len(pairs[number][1]))
        result = torch.empty(2, len(pairs), self.width)
        try:
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                vectors = self(self.tokens([pairs[number] for number in numbers], device))
                result[:, numbers] = torch.stack(vectors).cpu()
        finally:
            self.to("cpu")
        return result[0], result[1]

    def scores(self, pairs: Sequence[Pair], batch_size: int, device: torch.device) -> NDArray[np.float32]:
        """See :class:`Scorer`."""
        queries, documents = self.encode(pairs, batch_size, device)
        found: NDArray[np.float32] = (queries * documents).sum(-1).numpy()
        return found


def _mean(states: Tensor, chosen: Tensor) -> Tensor:
    weights = chosen.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def load_joint_encoder(name: str, pooling: DualPooling) -> tuple[JointEncoder, Any]:
    """Load the body of a network with weights as a joint encoder, and the sentence-transformers encoder that it was read with.

    Args:
        name: a folder or a name on the Hub: a cross-encoder, whose head is dropped, or any text encoder.
        pooling: see :class:`JointEncoder`.

    Raises:
        CoterieError: nothing readable exists there, or the network does not take a single sequence of tokens.
    """
    encoder = load_encoder(name)
    if not hasattr(encoder[0], "model"):
        raise CoterieError(f"{name!r} has no network of tokens, which teacher.pooling={pooling} pools")
    body = encoder[0].model.base_model
    return JointEncoder(body, encoder.tokenizer, pooling, int(encoder.max_seq_length or LONGEST)), encoder
