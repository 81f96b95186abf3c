"""Teachers' hidden states of the training clips, computed once and kept in the cache folder. Usable if teachers get the same input for a clip in every epoch.

There is one memory-mapped file per teacher, in bfloat16, frame by frame. Its name holds digests of the network with its preprocessing, and of the clips. An hour of audio has
180,000 frames: 0.8 GB for three layers of 768 features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.data.cache import cache_folder
from coterie.data.tables import Table, computed_table, read_table, shown_bytes
from coterie.errors import CoterieError
from coterie.methods.speech.encoder import SpeechEncoder
from coterie.networks.hugging_face import describe_config
from coterie.tasks.speech.data.clips import Clips, padded

FOLDER = "speech_states"
BITS = np.dtype(np.int16)  # numpy has no bfloat16
PART = 256  # clips between two writes to the disk


class CachedStates:
    """Hidden states of clips by several teachers; see the module.

    Args:
        clips: clips of the training split.
        teachers: teachers with their weights, in eval mode, on the device to compute on.
        layers: layers of each teacher whose states are kept.
        batch_size: clips per batch.
        most: largest number of samples per clip.

    Raises:
        CoterieError: a clip is longer, so a different part of it is used in every epoch.
    """

    def __init__(
        self,
        clips: Clips,
        teachers: Sequence[SpeechEncoder],
        layers: Sequence[Sequence[int]],
        batch_size: int,
        most: int,
    ) -> None:
        cut = int((clips.lengths > most).sum())
        if cut:
            raise CoterieError(
                f"data.cache_states: {cut:,} training clips are longer than data.max_seconds, and another part of them is heard in every epoch; raise it, or leave cache_states out"
            )
        self.clips, self.teachers, self.layers, self.batch_size = clips, list(teachers), list(layers), batch_size
        self._ends: list[NDArray[np.int64]] = []
        for teacher in self.teachers:
            frames = teacher.frames(torch.from_numpy(clips.lengths)).numpy()
            self._ends.append(np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(frames)]))

    def _shape(self, number: int) -> tuple[int, int, int]:
        """Return the number of frames of all clips, layers and features."""
        return int(self._ends[number][-1]), len(self.layers[number]), self.teachers[number].width

    def _path(self, number: int) -> Any:
        layers = "-".join(map(str, self.layers[number]))
        return cache_folder() / FOLDER / f"{self._digests[number]}-{layers}-{clips_digest(self.clips)}.npy"

    @cached_property
    def _digests(self) -> list[str]:
        return [encoder_digest(each) for each in self.teachers]

    def explain(self) -> str:
        """Return a sentence on the size of the states and whether they are cached already."""
        shapes = [self._shape(number) for number in range(len(self.teachers))]
        size = shown_bytes(sum(int(np.prod(shape)) * BITS.itemsize for shape in shapes))
        wanting = sum(read_table(self._path(number), BITS, shape) is None for number, shape in enumerate(shapes))
        what = f"the teachers' states of {len(self.clips):,} training clips, {size} in the cache folder"
        if not wanting:
            return f"{what}, are read from there"
        return f"{what}, are computed before the first step ({wanting} of {len(shapes)} teachers)"

    @cached_property
    def tables(self) -> list[Table]:
        """Return one table per teacher, bits of bfloat16 [frames, layers, features]; compute missing ones.

        Raises:
            RunError: the cache folder cannot be written, or has not enough room.
        """
        return [self._table(number) for number in range(len(self.teachers))]

    def _table(self, number: int) -> Table:
        clips, parts = self.clips, -(-len(self.clips) // PART)
        by_length = np.argsort(-clips.lengths, kind="stable")

        def fill(table: Table, part: int) -> None:
            chosen = by_length[part * PART : (part + 1) * PART]
            for start in range(0, len(chosen), self.batch_size):
                self._fill(table, number, chosen[start : start + self.batch_size])

        return computed_table(self._path(number), BITS, self._shape(number), parts, fill, "the teachers' states")

    @torch.no_grad()
    def _fill(self, table: Table, number: int, chosen: NDArray[np.int64]) -> None:
        teacher, ends = self.teachers[number], self._ends[number]
        device = next(teacher.parameters()).device
        waveforms = padded([self.clips.read(int(each)) for each in chosen]).to(device)
        lengths = torch.from_numpy(self.clips.lengths[chosen]).to(device)
        states = torch.stack(teacher(waveforms, lengths, self.layers[number]).states, dim=2)
        bits = states.to(torch.bfloat16).view(torch.int16).cpu().numpy()
        for row, each in zip(bits, chosen, strict=True):
            table[ends[each] : ends[each + 1]] = row[: ends[each + 1] - ends[each]]

    def read(self, indices: Sequence[int], pool: ThreadPoolExecutor) -> list[Future[Tensor]]:
        """Start reading the states of clips; return a future for each teacher: bfloat16 [B, T, layers, features], zero-padded."""
        return [pool.submit(self._rows, number, list(indices)) for number in range(len(self.tables))]

    def _rows(self, number: int, indices: list[int]) -> Tensor:
        table, ends = self.tables[number], self._ends[number]
        counts = [int(ends[each + 1] - ends[each]) for each in indices]
        found = np.zeros((len(indices), max(counts), *table.shape[1:]), dtype=BITS)
        for row, each, count in zip(found, indices, counts, strict=True):
            row[:count] = table[ends[each] : ends[each] + count]
        return torch.from_numpy(found).view(torch.bfloat16)


def encoder_digest(encoder: SpeechEncoder) -> str:
    """Return a digest that changes with any weight of an encoder, and with anything else that affects its states."""
    found = hashlib.blake2b(digest_size=16)
    config: Any = encoder.network.config
    found.update(f"1 {describe_config(config)} {encoder.normalize}".encode())
    for name, tensor in encoder.network.state_dict().items():
        found.update(f"{name} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def clips_digest(clips: Clips) -> str:
    """Return a digest that changes with any clip, their order, and their sample rate."""
    found = hashlib.blake2b(digest_size=16)
    for content, length in zip(clips.digests, clips.lengths.tolist(), strict=True):
        found.update(f"{content} {length} ".encode())
    return found.hexdigest()
