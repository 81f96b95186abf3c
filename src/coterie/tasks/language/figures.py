"""Figures of a language model and its agreement with a teacher, as sums over positions; memory does not grow with the number of positions.

All sums are integers (the NLL in steps of 2^-24 nats), so they do not depend on the order of batches, and the sums of several processes add up exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from coterie.errors import CoterieError
from coterie.losses.precision import at_least_float32

IDENTICAL_AT = (1, 3, 5)
OVERLAP_AT = (3, 5, 10, 20)
RANKS = max(OVERLAP_AT)
STEP = 2.0**-24  # nats
LARGEST = 2.0**20  # the NLL of a position is clamped to this, in nats: a sum of 2^18 such values still fits 63 bits
CHUNK_ELEMENTS = 2**23  # of one logits tensor, as in coterie.losses.chunked


def top_tokens(logits: Tensor, k: int = RANKS) -> Tensor:
    """Return the k likeliest tokens in descending order, int64 [P, min(k, V)], of logits [P, V]. Of equal logits, the lower token id comes first.

    >>> top_tokens(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 3)
    tensor([[1, 2, 3]])
    """
    k = min(k, logits.shape[-1])
    parts = [_top(part, k) for part in _chunks(logits)]
    return torch.cat(parts) if parts else torch.empty(0, k, dtype=torch.int64, device=logits.device)


def _top(logits: Tensor, k: int) -> Tensor:
    """``topk`` with ties broken by token id: it orders equal logits arbitrarily, so those that equal its smallest are selected again."""
    found = logits.topk(k, dim=-1)
    numbers = found.indices.sort(dim=-1).values
    order = logits.gather(-1, numbers).sort(dim=-1, descending=True, stable=True)
    least = order.values[:, -1:]
    places = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float32)  # exact up to 2^24
    last = torch.where(logits == least, -places, -torch.inf).topk(k, dim=-1).indices
    above = (order.values > least).sum(-1, keepdim=True)
    ranks = torch.arange(k, device=logits.device).expand_as(last)
    return torch.where(ranks < above, numbers.gather(-1, order.indices), last.gather(-1, (ranks - above).clamp(min=0)))


def _chunks(logits: Tensor) -> Iterable[Tensor]:
    return logits.split(max(1, CHUNK_ELEMENTS // logits.shape[-1])) if len(logits) else ()


class LanguageFigures:
    """Accumulates the figures of one model over a split, batch by batch.

    If ``teacher_top`` is passed to each update, the figures include agreement with a teacher. At each position, they compare the ordered k likeliest tokens of both:

    - ``cr_k`` (k = 1, 3, 5): the share of positions at which the two lists are identical;
    - ``mor_k`` (k = 3, 5, 10, 20): the mean share of tokens that are in both, in any order.

    All are means over positions. The published code (RLKD, Peng and Zhang, COLING 2025) averages within each sequence first and then over sequences, without those of
    fewer than 4 tokens, and computes the perplexity in the same way (a mean of exponentials). There, a position of a short sequence has a larger weight, and figures depend on
    where texts are cut. Here they do not, and the perplexity is that of the corpus: exp of the mean NLL.

    Args:
        vocabulary: V; figures with a k above V are left out.
        length: L, tokens per row.
        buckets: number of parts of a row for which the NLL is reported separately.
        device: device of the sums and of the logits.

    Attributes:
        identical_at, overlap_at: the k of ``cr_k`` and ``mor_k``.
    """

    def __init__(self, vocabulary: int, length: int, *, buckets: int = 16, device: torch.device | str = "cpu") -> None:
        if vocabulary < 1 or length < 1 or buckets < 1:
            raise CoterieError(
                f"vocabulary={vocabulary}, length={length}, buckets={buckets}: expected 1 or more of each"
            )
        self.length = length
        self.buckets = min(buckets, length)
        self.identical_at = tuple(k for k in IDENTICAL_AT if k <= vocabulary)
        self.overlap_at = tuple(k for k in OVERLAP_AT if k <= vocabulary)
        sizes = {"nll": self.buckets, "positions": self.buckets, "not_finite": 1, "correct": 1, "compared": 1}
        sizes |= {
            "identical": len(self.identical_at),
            "overlap": len(self.overlap_at),
            "by_rank": min(RANKS, vocabulary),
        }
        self._sums = {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in sizes.items()}

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor, columns: Tensor, teacher_top: Tensor | None = None) -> None:
        """Add the positions of a batch, without host synchronisation.

        Args:
            logits: [P, V].
            targets: the next tokens, int64 [P].
            columns: index of each position in its row, from 0, int64 [P]. For a mask of positions [B, L] it is ``positions.nonzero()[:, 1]``.
            teacher_top: :func:`top_tokens` of a teacher's logits at these positions, [P, 20]; None: no teacher.

        Raises:
            CoterieError: the arguments have different numbers of positions.
        """
        sizes = {len(logits), len(targets), len(columns)} | ({len(teacher_top)} if teacher_top is not None else set())
        if len(sizes) > 1:
            raise CoterieError(f"logits, targets, columns and teacher's tokens are of {sorted(sizes)} positions")
        start = 0
        for part in _chunks(logits):
            stop = start + len(part)
            teachers = None if teacher_top is None else teacher_top[start:stop]
            self._add(part, targets[start:stop], columns[start:stop], teachers)
            start = stop

    def _add(self, logits: Tensor, targets: Tensor, columns: Tensor, teacher_top: Tensor | None) -> None:
        sums = self._sums
        wide = at_least_float32(logits)
        nll = wide.logsumexp(-1) - wide.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        finite = nll.isfinite()
        steps = (torch.where(finite, nll, 0.0).clamp(0.0, LARGEST) / STEP).round().to(torch.int64)
        bucket = columns * self.buckets // self.length
        sums["nll"].index_add_(0, bucket, steps)
        sums["positions"].index_add_(0, bucket, torch.ones_like(steps))
        sums["not_finite"] += (~finite).sum()
        top = top_tokens(logits, RANKS)
        sums["correct"] += (top[:, 0] == targets).sum()
        if teacher_top is None:
            return
        sums["compared"] += len(logits)
        equal = top == teacher_top
        sums["by_rank"] += equal.sum(0)
        common = top.unsqueeze(2) == teacher_top.unsqueeze(1)
        for number, k in enumerate(self.identical_at):
            sums["identical"][number] += equal[:, :k].all(-1).sum()
        for number, k in enumerate(self.overlap_at):
            sums["overlap"][number] += common[:, :k, :k].sum()

    def state(self) -> dict[str, Tensor]:
        """Return the sums, int64 tensors [m]. To add up all processes: ``figures.load(accelerator.reduce(figures.state(), "sum"))``."""
        return {name: value.clone() for name, value in self._sums.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace the sums.

        Raises:
            CoterieError: the sums belong to other figures.
        """
        if {name: value.shape for name, value in state.items()} != {name: v.shape for name, v in self._sums.items()}:
            raise CoterieError("sums of other figures: expected the same vocabulary, length and buckets")
        self._sums = {name: value.to(self._sums[name].device, torch.int64) for name, value in state.items()}

    def merge(self, other: LanguageFigures) -> None:
        """Add the sums of another instance."""
        self.load({name: self._sums[name] + value.to(self._sums[name].device) for name, value in other.state().items()})

    def compute(self) -> dict[str, float]:
        """Return ``nll`` (nats), ``perplexity``, ``top1`` and, with a teacher, ``cr_k`` and ``mor_k``; nan without positions.

        A position whose NLL is not finite makes nll and perplexity nan.
        """
        sums = {name: value.tolist() for name, value in self._sums.items()}
        positions, compared = sum(sums["positions"]), sums["compared"][0]
        nll = _share(sum(sums["nll"]), positions) * STEP if not sums["not_finite"][0] else math.nan
        figures = {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else nll * math.inf}
        figures["top1"] = _share(sums["correct"][0], positions)
        if compared:
            figures |= {f"cr_{k}": sums["identical"][at] / compared for at, k in enumerate(self.identical_at)}
            figures |= {f"mor_{k}": sums["overlap"][at] / (k * compared) for at, k in enumerate(self.overlap_at)}
        return figures

    def curves(self) -> dict[str, list[float]]:
        """Return curves for a report: ``nll_by_position``, for each part of a row (nan if no position counts), and, with a teacher, ``agreement_by_rank``, the share of
        positions at which both have the same token at a rank, from the first rank on.
        """
        sums = {name: value.tolist() for name, value in self._sums.items()}
        pairs = zip(sums["nll"], sums["positions"], strict=True)
        curves = {"nll_by_position": [_share(total, count) * STEP for total, count in pairs]}
        if sums["compared"][0]:
            curves["agreement_by_rank"] = [count / sums["compared"][0] for count in sums["by_rank"]]
        return curves


def _share(total: int, count: int) -> float:
    return total / count if count else math.nan
