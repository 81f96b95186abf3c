"""Batches of clips: for training in a fixed order, with crops and distortion that are functions of (seed, epoch, clip); for evaluation without either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coterie.data.batch import Batch
from coterie.data.order import InOrder, Order, longest_first
from coterie.randomness import derive_seed, uniform
from coterie.tasks.speech.data.clips import Clips, Samples, padded
from coterie.tasks.speech.data.distortion import KINDS, Effects, distorted
from coterie.tasks.speech.data.states import CachedStates
from coterie.tasks.speech.settings import SpeechData

VOICES = 4  # other clips to mix for babble
Frames = Callable[[Tensor], Tensor]  # numbers of samples to numbers of frames, int64 [B]


@dataclass(frozen=True)
class Cut:
    """Crops of a batch's clips.

    Attributes:
        indices: indices of the clips, int64 [B]; -1 is a filler.
        starts, counts: first sample and number of samples, int64 [B].
    """

    indices: Tensor
    starts: Tensor
    counts: Tensor


def cut(clips: Clips, indices: Tensor, most: int, seed: int | None = None) -> Cut:
    """Crop clips to at most ``most`` samples.

    Args:
        clips: clips of a split.
        indices: int64 [B] on the CPU; -1 is a filler.
        most: largest number of samples.
        seed: seed of the position of the crop of longer clips; None: their first samples.
    """
    lengths = torch.from_numpy(clips.lengths)[indices.clamp(min=0)]
    counts = lengths.clamp(max=most)
    starts = torch.zeros_like(lengths)
    if seed is not None:
        starts = ((lengths - counts + 1) * uniform(seed, indices, 0).double()).long()
    return Cut(indices, starts, counts)


def read(clips: Clips, chosen: Cut, pool: ThreadPoolExecutor) -> list[Future[Samples]]:
    """Start reading the samples; return futures."""
    rows = zip(chosen.indices.tolist(), chosen.starts.tolist(), chosen.counts.tolist(), strict=True)
    return [pool.submit(clips.read, max(0, index), start, count) for index, start, count in rows]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, asynchronously for a GPU."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def batch_of(clips: Clips, chosen: Cut, rows: list[Samples], device: torch.device, weight: float = 1.0) -> Batch:
    """Make a batch on the device.

    Returns:
        ``inputs``: ``waveforms`` float32 [B, S] and ``lengths`` int64 [B]. ``targets``: codes of the labels, int64 [B, labels]. ``indices`` int64 [B].
    """
    places = chosen.indices.clamp(min=0).numpy()
    labels = [torch.from_numpy(codes[places]) for codes in clips.labels.values()]
    targets = torch.stack(labels, 1) if labels else torch.empty(len(places), 0, dtype=torch.int64)
    inputs: Any = {"waveforms": sent(padded(rows), device), "lengths": sent(chosen.counts, device)}
    return Batch(inputs, sent(targets, device), sent(chosen.indices, device), weight)


class SpeechTrainLoader(InOrder):
    """Training batches, see :class:`coterie.data.batch.TrainLoader`. Clips of similar length share a batch.

    A loss is a mean over the frames of a batch, and batches have different numbers of them. The batch weights turn the mean over processes and accumulated
    batches into a mean over all these frames.

    Args:
        clips: clips of the training split.
        settings: the recipe's section ``data``.
        order: order of these clips.
        device: device of the batches.
        frames: maps numbers of samples to numbers of frames.
        accumulate: batches to accumulate before a step.
        noise: clips of the noise folders.

    Attributes:
        states: cached hidden states of the teachers, which are added to each batch; None: the teachers run in every step.
    """

    def __init__(
        self,
        clips: Clips,
        settings: SpeechData,
        order: Order,
        device: torch.device,
        frames: Frames,
        accumulate: int = 1,
        noise: Clips | None = None,
    ) -> None:
        self.clips, self.settings, self.order, self.device = clips, settings, order, device
        self.frames, self.accumulate, self.noise = frames, accumulate, noise
        self.most = most_samples(settings)
        self.views = 1
        self.repeats = False  # hidden states are too large to cache like logits
        self.ahead = 1
        self.kinds = [each for each in settings.noise if each in {"white", "pink", "babble"}]
        self.kinds += ["folder"] if noise is not None else []
        self.states: CachedStates | None = None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a step on; they do not depend on earlier batches. The next batch is prefetched."""
        weights = self._weights(epoch)
        seed = derive_seed(self.order.seed, "crop", epoch)
        with ThreadPoolExecutor(self.settings.workers) as pool:
            waiting = None
            for step, indices in enumerate(self.order.batches(epoch, first_step), first_step):
                chosen = cut(self.clips, indices, self.most, seed)
                taught = [] if self.states is None else self.states.read(indices.clamp(min=0).tolist(), pool)
                now = (step, chosen, read(self.clips, chosen, pool), self._background(chosen, epoch, pool), taught)
                if waiting is not None:
                    yield self._batch(*waiting, epoch, weights)
                waiting = now
            if waiting is not None:
                yield self._batch(*waiting, epoch, weights)

    def _batch(
        self,
        step: int,
        chosen: Cut,
        rows: list[Future[Samples]],
        background: tuple[Tensor, list[list[Future[Samples]]]] | None,
        taught: list[Future[Tensor]],
        epoch: int,
        weights: list[float],
    ) -> Batch:
        batch = batch_of(self.clips, chosen, [each.result() for each in rows], self.device, weights[step])
        if background is not None:
            heard = self._distorted(batch, chosen, background, epoch)
            name = "waveforms" if self.settings.distortion == "both" else "distorted"
            batch = batch._replace(inputs={**batch.inputs, name: heard})
        if taught:
            states = tuple(sent(each.result(), self.device) for each in taught)
            batch = batch._replace(inputs={**batch.inputs, "taught": states})
        return batch if self.views == 1 else batch._replace(inputs=[batch.inputs] * self.views)

    def _background(
        self, chosen: Cut, epoch: int, pool: ThreadPoolExecutor
    ) -> tuple[Tensor, list[list[Future[Samples]]]] | None:
        """Return each clip's kind of noise as an index in ``KINDS``, and the samples read for it: voices, or a part of a recording."""
        if self.settings.distortion == "none":
            return None
        seed, indices = derive_seed(self.order.seed, "noise", epoch), chosen.indices
        drawn = uniform(seed, indices, 0) < self.settings.noise_share
        picked = (uniform(seed, indices, 1) * len(self.kinds)).long()
        kinds, parts = [], []
        for row, (index, count) in enumerate(zip(indices.tolist(), chosen.counts.tolist(), strict=True)):
            kind = self.kinds[int(picked[row])] if drawn[row] else ""
            kinds.append({"": -1, "white": 0, "pink": 1}.get(kind, KINDS.index("recorded")))
            parts.append([] if kind not in {"babble", "folder"} else self._recordings(kind, index, count, seed, pool))
        return torch.tensor(kinds), parts

    def _recordings(
        self, kind: str, index: int, count: int, seed: int, pool: ThreadPoolExecutor
    ) -> list[Future[Samples]]:
        clips = self.clips if kind == "babble" or self.noise is None else self.noise
        voices = VOICES if kind == "babble" else 1
        drawn = uniform(seed, torch.full((2 * voices,), index), torch.arange(2, 2 + 2 * voices)).tolist()
        found = []
        for number, place in zip(drawn[::2], drawn[1::2], strict=True):
            other = int(number * len(clips))
            if kind == "babble" and other == index:
                other = (other + 1) % len(clips)
            own = int(clips.lengths[other])
            taken = min(own, count)
            found.append(pool.submit(clips.read, other, int(place * (own - taken + 1)), taken))
        return found

    def _distorted(
        self, batch: Batch, chosen: Cut, background: tuple[Tensor, list[list[Future[Samples]]]], epoch: int
    ) -> Tensor:
        kinds, parts = background
        width, recorded = int(chosen.counts.max()), None
        if any(parts):
            rows = np.zeros((len(parts), width), dtype=np.float32)
            for row, several in zip(rows, parts, strict=True):
                for each in several:  # a short one is repeated
                    row += np.resize(each.result(), width)
            recorded = sent(torch.from_numpy(rows), self.device)
        effects = Effects(
            (self.settings.snr[0], self.settings.snr[1]), self.settings.reverberation, self.settings.band_limit
        )
        seed, inputs = derive_seed(self.order.seed, "distortion", epoch), batch.inputs
        rate, kinds = self.settings.sample_rate, sent(kinds, self.device)
        return distorted(inputs["waveforms"], inputs["lengths"], batch.indices, seed, rate, effects, kinds, recorded)

    def _weights(self, epoch: int) -> list[float]:
        """Weights of this process's batches: its frames over the mean number of frames of all batches in the same optimizer step."""
        steps, processes = self.steps_per_epoch, self.order.num_processes
        if processes == self.accumulate == 1:
            return [1.0] * steps
        frames = self.frames(torch.from_numpy(self.clips.lengths).clamp(max=self.most))
        whole = replace(self.order, process_index=0, num_processes=1)
        own, all_ = (
            np.array([int(frames[indices].sum()) for indices in order.batches(epoch)]) for order in (self.order, whole)
        )
        together = [slice(start, start + self.accumulate) for start in range(0, steps, self.accumulate)]
        shares = [own[part] * processes * len(own[part]) / all_[part].sum() for part in together]
        return [float(share) for share in np.concatenate(shares)]


def most_samples(settings: SpeechData) -> int:
    """Return the largest number of samples per clip."""
    return int(settings.max_seconds * settings.sample_rate)


class SpeechEvaluationLoader:
    """Every clip once, the longest first to reduce padding. Long clips are cut to their first seconds. See :class:`coterie.data.batch.EvaluationLoader`.

    Args:
        clips: clips of a split.
        settings: the recipe's section ``data``.
        batch_size: clips per batch of this process.
        device: device of the batches.
        process_index, num_processes: rank of this process and number of processes.
        limit: largest number of clips, evenly spaced; None: all.
    """

    def __init__(
        self,
        clips: Clips,
        settings: SpeechData,
        batch_size: int,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
        limit: int | None = None,
    ) -> None:
        self.clips, self.settings, self.batch_size, self.device = clips, settings, batch_size, device
        self.num_samples = min(len(clips), limit or len(clips))
        numbers = torch.arange(self.num_samples) * len(clips) // self.num_samples
        lengths = torch.from_numpy(clips.lengths).clamp(max=most_samples(settings))[numbers]
        found = longest_first(lengths, process_index, num_processes)
        self.indices = torch.where(found < 0, -1, numbers[found])

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.settings.workers) as pool:
            for indices in self.indices.split(self.batch_size):
                chosen = cut(self.clips, indices, most_samples(self.settings))
                rows = [each.result() for each in read(self.clips, chosen, pool)]
                yield batch_of(self.clips, chosen, rows, self.device)
