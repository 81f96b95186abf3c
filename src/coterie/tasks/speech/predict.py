"""Features of clips by a run's deployed student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.files import write_atomically
from coterie.methods.speech.encoder import SpeechEncoder
from coterie.tasks.speech.data.files import read_audio


@dataclass(frozen=True)
class Features:
    """The student's features of one clip.

    Attributes:
        features: hidden states of a layer, float32 [T, D].
        times: middle of each frame in seconds, float64 [T].
        file: file that they were written to; None: none.
        error: why the clip could not be read, in one line.
    """

    features: Tensor
    times: Tensor
    file: Path | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        frames, width = self.features.shape
        return {"frames": frames, "width": width, "file": None if self.file is None else str(self.file)}

    def row(self) -> dict[str, str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {key: "" if value is None else str(value) for key, value in self.record().items()}

    def lines(self) -> list[str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        frames, width = self.features.shape
        return [f"{frames:,} frames of {width:,} features" + (f" in {self.file}" if self.file else "")]


def features_of(
    network: nn.Module, description: dict[str, Any], samples: Sequence[Any], layer: int, output: str
) -> Iterator[Features]:
    """Compute the features of clips, one clip after the other.

    Args:
        network: the student, in eval mode.
        description: contents of its ``student.json``.
        samples: paths of files, or samples float32 [S] at the student's rate, mono.
        layer: index of the hidden state: 0 is the input of the first layer, -1 the last hidden state.
        output: folder for the features of files, ``<name>.safetensors``; empty: none.

    Raises:
        CoterieError: the layer does not exist, two files have the same name, or the folder cannot be created. Raised before the first clip.
    """
    encoder = SpeechEncoder(network, description["normalize"]).eval()
    states = encoder.num_layers + 1
    if not -states <= layer < states:
        raise CoterieError(f"layer={layer}: the student has the hidden states 0 to {states - 1}")
    targets = _targets(samples, output)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return _features(encoder.to(device), description["sample_rate"], samples, targets, layer % states, device)


def _targets(samples: Sequence[Any], output: str) -> list[Path | None]:
    """Return the files to write features to."""
    found: list[Path | None] = [
        Path(output) / f"{Path(each).stem}.safetensors" if output and isinstance(each, (str, Path)) else None
        for each in samples
    ]
    named = [each for each in found if each is not None]
    if len(set(named)) < len(named):
        twice = next(each for each in named if named.count(each) > 1)
        raise CoterieError(
            f"two files are called {twice.stem!r}, and their features would have one name; ask for one at a time, with another output"
        )
    if named:
        try:
            Path(output).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CoterieError(f"cannot write to {output!r}: {error.strerror}") from None
    return found


def _features(
    encoder: SpeechEncoder, rate: int, samples: Sequence[Any], targets: Sequence[Path | None], layer: int, device: str
) -> Iterator[Features]:
    for sample, target in zip(samples, targets, strict=True):
        try:
            clip = _clip(sample, rate, encoder.reach)
        except CoterieError as error:
            yield Features(torch.empty(0, encoder.width), torch.empty(0), error=str(error))
            continue
        with torch.inference_mode():
            lengths = torch.tensor([len(clip)], device=device)
            found = encoder(clip[None].to(device), lengths, [layer]).states[0][0].float().cpu()
        times = (torch.arange(len(found), dtype=torch.float64) * encoder.stride + encoder.reach / 2) / rate
        if target is not None:
            about = {"sample_rate": str(rate), "layer": str(layer)}
            tensors = {"features": found.contiguous().clone(), "times": times}
            write_atomically(target, partial(save_file, tensors, metadata=about))
        yield Features(found.clone(), times, target)


def _clip(sample: Any, rate: int, least: int) -> Tensor:
    """Return the samples of a clip.

    Raises:
        CoterieError: it cannot be read, or is not a clip.
    """
    if isinstance(sample, (str, Path)):
        found = torch.from_numpy(read_audio(Path(sample), rate))
    else:
        found = torch.as_tensor(np.asarray(sample) if not isinstance(sample, Tensor) else sample)
        if found.ndim != 1 or not found.is_floating_point():
            raise CoterieError(
                f"a clip of {list(found.shape)} {found.dtype}: expected a path, or samples float32 [S] at {rate:,} a second"
            )
    shown = f"{str(sample)!r}" if isinstance(sample, (str, Path)) else "the clip"
    if len(found) < least:
        raise CoterieError(f"{shown} has {len(found)} samples, and a frame is made of {least}")
    if not torch.isfinite(found).all():
        raise CoterieError(f"{shown} has samples that are not finite")
    return found.float()
