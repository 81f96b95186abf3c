"""Evaluation of a student against its teachers on a split, per layer; probes; and costs."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from coterie.data.batch import EvaluationLoader
from coterie.errors import RunError
from coterie.methods.method import Method
from coterie.methods.speech.ekd import EnsembleKD
from coterie.methods.speech.encoder import EncoderTeachers, SpeechEncoder
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.speech.data.loaders import SpeechEvaluationLoader
from coterie.tasks.speech.probe import pooled, probe_labels

TIMED_SECONDS = 5.0  # length of the clip for the real-time factor
TIMES = 3

Probes = dict[str, dict[str, dict[str, float]]]  # encoder -> label -> clean or noisy -> share


@dataclass(frozen=True)
class SpeechEvaluation(Evaluation):
    """Evaluation of a speech encoder.

    Attributes:
        probes: probes of the student, its teachers and a random network, if they were measured.
    """

    probes: Probes = field(default_factory=dict)


class ProbesFound(NamedTuple):
    """Results of probes of several encoders.

    Attributes:
        shares: accuracies by encoder, label, and clean or noisy.
        layers: weights of the layers, by encoder and label.
    """

    shares: Probes
    layers: dict[str, dict[str, list[float]]]


def as_ekd(method: Method) -> EnsembleKD:
    """Return the method, typed for speech encoders."""
    assert isinstance(method, EnsembleKD)
    return method


@torch.inference_mode()
def measure(
    method: Method, teachers: EncoderTeachers, loader: EvaluationLoader, accelerator: Accelerator
) -> SpeechEvaluation:
    """Measure distance and cosine for each teacher and layer on a whole split, in eval mode.

    Args:
        method: the method; it is set to eval mode.
        teachers: teachers with their weights.
        loader: batches of the split.
        accelerator: the sums of its processes are added up.

    Raises:
        RunError: predictions are not finite.
    """
    ekd = as_ekd(method).eval()
    places = [(number, layer) for number, chosen in enumerate(ekd.layers) for layer in chosen]
    sums = torch.zeros(len(places), 3, dtype=torch.float64, device=accelerator.device)
    for batch in loader:
        with accelerator.autocast():
            compared, valid = ekd.compare(batch.inputs, teachers)
        inside = (valid & (batch.indices >= 0)[:, None]).double()
        for row, each in zip(sums, compared, strict=True):
            own, other = each.predicted.float(), each.target.float()
            values = [
                (own - other).abs().mean(-1),
                F.cosine_similarity(own, other, dim=-1),
                torch.ones_like(own[..., 0]),
            ]
            row += torch.stack([(value.double() * inside).sum() for value in values])
    sums = accelerator.reduce(sums, "sum").cpu()
    means = (sums[:, :2] / sums[:, 2:]).tolist()
    layers = [
        {"teacher": number, "layer": layer, "distance": distance, "cosine": cosine}
        for (number, layer), (distance, cosine) in zip(places, means, strict=True)
    ]
    student = {key: sum(float(each[key]) for each in layers) / len(layers) for key in ("distance", "cosine")}
    if not student["distance"] < float("inf"):
        raise RunError(
            "the student's predictions are not finite: training has diverged. "
            "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."
        )
    figures = {
        "deployed": {"student": 0, **student},
        "students": [student],
        "mean_student": dict(student),
        "layers": layers,
    }
    return SpeechEvaluation(figures)


def probe(
    encoders: Mapping[str, SpeechEncoder],
    train: SpeechEvaluationLoader,
    test: SpeechEvaluationLoader,
    labels: Sequence[str],
    every_layer: bool = False,
) -> ProbesFound:
    """Measure the accuracy of a linear classifier on each encoder's features of test clips, clean and noisy.

    Args:
        encoders: encoders by name, in eval mode.
        train, test: clips; every process gets all of them.
        labels: names of the labels.
        every_layer: whether to use a learnt weighted sum of all layers, instead of the last one.
    """
    learnt = pooled(encoders, train, every_layer=every_layer)
    clean, noisy = (pooled(encoders, test, each, every_layer) for each in (False, True))
    found = {
        name: probe_labels(learnt[name], {"clean": clean[name], "noisy": noisy[name]}, labels) for name in encoders
    }
    return ProbesFound(
        {name: {label: each.shares for label, each in several.items()} for name, several in found.items()},
        {name: {label: each.weights for label, each in several.items()} for name, several in found.items()},
    )


def with_probes(evaluation: SpeechEvaluation, found: ProbesFound, student: str) -> SpeechEvaluation:
    """Add the probes' means over labels to the figures of the student."""
    probes = found.shares
    own = means_of(probes[student])
    figures = {**evaluation.figures, "probes": probes, "probe_layers": found.layers}
    for key in ("deployed", "mean_student"):
        figures[key] = {**figures[key], **own}
    figures["students"] = [{**figures["students"][0], **own}]
    return SpeechEvaluation(figures, probes=probes)


def means_of(shares: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the figures of an encoder's probes, means over labels, clean and noisy; empty without labels."""
    if not shares:
        return {}
    rows = list(shares.values())
    return {
        key: sum(each[name] for each in rows) / len(rows)
        for key, name in (("probe", "clean"), ("probe_noisy", "noisy"))
    }


@torch.inference_mode()
def costs(encoder: SpeechEncoder, rate: int) -> dict[str, float]:
    """Return the number of parameters, and seconds on this CPU per second of audio (``real_time_factor``): the best of three passes over one clip of 5 s, after a warm-up pass.

    Args:
        encoder: the encoder; it is not moved.
        rate: samples per second.
    """
    found = copy.deepcopy(encoder).cpu().eval()
    clip = torch.randn(1, int(TIMED_SECONDS * rate), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([clip.shape[1]])
    seconds = []
    for _ in range(TIMES + 1):
        started = time.perf_counter()
        found(clip, lengths, [found.num_layers])
        seconds.append(time.perf_counter() - started)
    parameters = sum(each.numel() for each in found.parameters())
    return {"parameters": parameters, "real_time_factor": min(seconds[1:]) / TIMED_SECONDS}


def frame_differences(method: Method, teachers: EncoderTeachers, waveforms: Tensor) -> Tensor:
    """Return the distance of the student from its teachers for each frame of one clip: 1 - cosine, mean over teachers and layers, [T].

    Args:
        method: the method, in eval mode.
        teachers: teachers with their weights.
        waveforms: float32 [1, S].
    """
    lengths = torch.tensor([waveforms.shape[1]], device=waveforms.device)
    with torch.inference_mode():
        compared, _ = as_ekd(method).compare({"waveforms": waveforms, "lengths": lengths}, teachers)
        found = [1 - F.cosine_similarity(each.predicted.float(), each.target.float(), dim=-1)[0] for each in compared]
    return torch.stack(found).mean(0)
