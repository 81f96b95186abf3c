"""Linear probes: what of a clip's labels can be read from frozen features, in silence and in noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from coterie.data.batch import Batch
from coterie.methods.speech.encoder import SpeechEncoder
from coterie.randomness import derive_seed
from coterie.tasks.speech.data.distortion import noise_of, with_noise

CLIPS = 2_000  # of a split, that probes see at most
LEVEL = 0.0  # dB of signal to noise
ITERATIONS = 1_000
Array = NDArray[np.float64]


class Pooled(NamedTuple):
    """Features of a split's clips.

    Attributes:
        features: mean of the last hidden state over a clip's frames, float64 [N, D].
        labels: codes, int64 [N, labels]; -1: none.
    """

    features: Array
    labels: NDArray[np.int64]


def in_noise(batch: Batch) -> Tensor:
    """A batch's clips with noise as loud as they are, every other one white and pink, float32 [B, S]; a function of each clip and its number."""
    waveforms, lengths = batch.inputs["waveforms"], batch.inputs["lengths"]
    kinds = batch.indices.clamp(min=0) % 2
    noise = noise_of(waveforms, batch.indices, derive_seed("probe"), kinds, None)
    return with_noise(waveforms, lengths, noise, torch.full_like(waveforms[:, 0], LEVEL), kinds >= 0)


@torch.inference_mode()
def pooled(encoders: Mapping[str, SpeechEncoder], batches: Iterable[Batch], noisy: bool = False) -> dict[str, Pooled]:
    """Features of clips by several encoders, which are in eval mode.

    Args:
        encoders: by name.
        batches: of a split.
        noisy: in noise.
    """
    features: dict[str, list[Tensor]] = {name: [] for name in encoders}
    labels = []
    for batch in batches:
        counted = batch.indices >= 0
        heard = in_noise(batch) if noisy else batch.inputs["waveforms"]
        labels.append(batch.targets[counted].cpu())
        for name, encoder in encoders.items():
            frames = encoder(heard, batch.inputs["lengths"], [encoder.num_layers])
            inside = frames.valid[..., None].to(torch.float64)
            mean = (frames.states[0].double() * inside).sum(1) / inside.sum(1).clamp(min=1)
            features[name].append(mean[counted].cpu())
    codes = torch.cat(labels).numpy()
    return {name: Pooled(torch.cat(rows).numpy(), codes) for name, rows in features.items()}


def accuracies(train: Pooled, tests: Mapping[str, Pooled], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The share of clips that a logistic regression on standardised features gets right, by label and set.

    Args:
        train: what it learns from.
        tests: what it is measured on, by name. Clips of classes that it has not seen count as wrong; those without the label do not count.
        names: of the labels, in the order of their columns. Those with fewer than two classes to learn are left out.
    """
    found = {}
    for column, name in enumerate(names):
        known = train.labels[:, column] >= 0
        codes = train.labels[known, column]
        if len(np.unique(codes)) < 2:
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(train.features[known], codes)
        shares = {}
        for key, each in tests.items():
            labelled = each.labels[:, column] >= 0
            if labelled.any():
                right = probe.predict(each.features[labelled]) == each.labels[labelled, column]
                shares[key] = float(right.mean())
        if shares:
            found[name] = shares
    return found
