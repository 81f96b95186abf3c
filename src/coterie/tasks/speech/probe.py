"""Linear probes: how well a clip's labels can be predicted from frozen features, clean and noisy."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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

CLIPS = 2_000  # largest number of clips per split
LEVEL = 0.0  # signal-to-noise ratio in dB
ITERATIONS = 1_000
TOLERANCE = 1e-6  # of the objective's gradient
Array = NDArray[np.float64]


class Pooled(NamedTuple):
    """Features of a split's clips.

    Attributes:
        features: mean over a clip's frames, for each layer, float64 [N, layers, D].
        labels: codes, int64 [N, labels]; -1: none.
    """

    features: Array
    labels: NDArray[np.int64]


def in_noise(batch: Batch) -> Tensor:
    """Add noise as loud as the clips, alternating white and pink, float32 [B, S]. The noise is a function of the clip and its index."""
    waveforms, lengths = batch.inputs["waveforms"], batch.inputs["lengths"]
    kinds = batch.indices.clamp(min=0) % 2
    noise = noise_of(waveforms, batch.indices, derive_seed("probe"), kinds, None)
    return with_noise(waveforms, lengths, noise, torch.full_like(waveforms[:, 0], LEVEL), kinds >= 0)


@torch.inference_mode()
def pooled(
    encoders: Mapping[str, SpeechEncoder], batches: Iterable[Batch], noisy: bool = False, every_layer: bool = False
) -> dict[str, Pooled]:
    """Compute pooled features of clips by several encoders, which must be in eval mode.

    Args:
        encoders: encoders by name.
        batches: batches of a split.
        noisy: whether to add noise.
        every_layer: whether to use all hidden states, starting with the input of the first layer, instead of the last one.
    """
    features: dict[str, list[Tensor]] = {name: [] for name in encoders}
    labels = []
    for batch in batches:
        counted = batch.indices >= 0
        heard = in_noise(batch) if noisy else batch.inputs["waveforms"]
        labels.append(batch.targets[counted].cpu())
        for name, encoder in encoders.items():
            frames = encoder(heard, batch.inputs["lengths"], None if every_layer else [encoder.num_layers])
            inside = frames.valid[..., None].to(torch.float64)
            count = inside.sum(1).clamp(min=1)
            means = [(state.double() * inside).sum(1) / count for state in frames.states]
            features[name].append(torch.stack(means, 1)[counted].cpu())
    codes = torch.cat(labels).numpy()
    return {name: Pooled(torch.cat(rows).numpy(), codes) for name, rows in features.items()}


class Probed(NamedTuple):
    """Result of the probe of a label.

    Attributes:
        shares: accuracy by set.
        weights: weights of the layers, which sum to 1.
    """

    shares: dict[str, float]
    weights: list[float]


def probe_labels(train: Pooled, tests: Mapping[str, Pooled], names: Sequence[str]) -> dict[str, Probed]:
    """Measure the accuracy of a logistic regression on standardised features, by label and set. With several layers, it also learns their weights.

    Args:
        train: features to train on.
        tests: features to test on, by name. Clips of unseen classes count as wrong; those without the label do not count.
        names: names of the labels, in the order of their columns. Labels with fewer than two training classes are left out.
    """
    found = {}
    for column, name in enumerate(names):
        known = train.labels[:, column] >= 0
        codes = train.labels[known, column]
        if len(np.unique(codes)) < 2:
            continue
        features = train.features[known]
        probe = (OneLayer if features.shape[1] == 1 else WeightedLayers)(features, codes)
        shares = {}
        for key, each in tests.items():
            labelled = each.labels[:, column] >= 0
            if labelled.any():
                right = probe.predict(each.features[labelled]) == each.labels[labelled, column]
                shares[key] = float(right.mean())
        if shares:
            found[name] = Probed(shares, probe.weights)
    return found


def accuracies(train: Pooled, tests: Mapping[str, Pooled], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return only the accuracies of :func:`probe_labels`."""
    return {name: found.shares for name, found in probe_labels(train, tests, names).items()}


class OneLayer:
    """scikit-learn's logistic regression on the features of one layer.

    Args:
        features: [N, 1, D].
        codes: class codes, int64 [N].
    """

    weights: ClassVar = [1.0]

    def __init__(self, features: Array, codes: NDArray[np.int64]) -> None:
        self.probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.probe.fit(features[:, 0], codes)

    def predict(self, features: Array) -> NDArray[np.int64]:
        """Predict the classes of features [N, 1, D]."""
        found: NDArray[np.int64] = self.probe.predict(features[:, 0])
        return found


class WeightedLayers:
    """Logistic regression on a weighted sum of layers, whose weights (a softmax) it learns too, as SUPERB's downstream models do (Yang et al., Interspeech 2021, arXiv 2105.01051, section 2).

    Each layer's features are standardised first. The objective is scikit-learn's: cross-entropy summed over clips, plus half the squared norm of the coefficients. Training starts at equal
    weights and zero coefficients, so the result is a function of the data.

    Args:
        features: [N, layers, D].
        codes: class codes, int64 [N].

    Attributes:
        weights: weights of the layers.
    """

    def __init__(self, features: Array, codes: NDArray[np.int64]) -> None:
        self.classes, numbers = np.unique(codes, return_inverse=True)
        self.mean, deviation = features.mean(0), features.std(0)
        self.deviation = np.where(deviation > 0, deviation, 1.0)
        with torch.inference_mode(False), torch.enable_grad():
            self._fit(self._standardised(features), torch.from_numpy(numbers))

    def _fit(self, values: Tensor, targets: Tensor) -> None:
        options: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True}
        layers = torch.zeros(values.shape[1], **options)
        coefficients = torch.zeros(values.shape[2], len(self.classes), **options)
        bias = torch.zeros(len(self.classes), **options)
        optimizer = torch.optim.LBFGS(
            [layers, coefficients, bias], max_iter=ITERATIONS, tolerance_grad=TOLERANCE, line_search_fn="strong_wolfe"
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            logits = torch.einsum("nld,l->nd", values, layers.softmax(0)) @ coefficients + bias
            value = F.cross_entropy(logits, targets, reduction="sum") + coefficients.square().sum() / 2
            value.backward()
            return value

        optimizer.step(objective)
        self._layers, self._coefficients, self._bias = layers.detach().softmax(0), coefficients.detach(), bias.detach()
        self.weights: list[float] = self._layers.tolist()

    def _standardised(self, features: Array) -> Tensor:
        return torch.from_numpy((features - self.mean) / self.deviation)

    def predict(self, features: Array) -> NDArray[np.int64]:
        """Predict the classes of features [N, layers, D]."""
        summed = torch.einsum("nld,l->nd", self._standardised(features), self._layers)
        found: NDArray[np.int64] = self.classes[(summed @ self._coefficients + self._bias).argmax(1).numpy()]
        return found
