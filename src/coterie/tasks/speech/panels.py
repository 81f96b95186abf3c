"""Report panels of a speech encoder: cosines over training, probes, and the frames in which student and teachers differ.

The task keeps their data in the run's gallery, in ``speech.json`` and ``speech.safetensors``, with a bounded size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie.files import write_atomically, write_json
from coterie.run_folder import MetricsLog, RunFolder, read_json
from coterie.tasks.panels import Panel, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES, CLIPS = "speech.json", "speech.safetensors"
WINDOW = 0.025  # seconds of a spectrogram's column
HOP = 0.01
SHOWN_SECONDS = 10.0
FLOOR = -80.0  # dB


def save(
    folder: RunFolder,
    split: str,
    rate: int,
    figures: Mapping[str, Any],
    teachers: Sequence[str],
    clips: Sequence[tuple[str, NDArray[np.float32], NDArray[np.float32]]],
) -> None:
    """Write the data of the panels to the gallery, which must exist.

    Args:
        folder: the run folder.
        split: the evaluated split.
        rate: samples per second.
        figures: figures of the final evaluation.
        teachers: names of the teachers.
        clips: name, samples [S] and frame differences [T] of each clip.
    """
    from safetensors.numpy import save_file

    tensors, names = {}, []
    for number, (name, samples, differences) in enumerate(clips):
        seconds = min(SHOWN_SECONDS, len(samples) / rate)
        kept = round(len(differences) * seconds * rate / len(samples))
        tensors[f"spectrogram {number}"] = spectrogram(samples[: int(seconds * rate)], rate)
        tensors[f"differences {number}"] = np.ascontiguousarray(differences[:kept])
        names.append({"name": name, "seconds": seconds})
    about = {"split": split, "rate": str(rate), "clips": json.dumps(names)}
    kept_figures = {"layers": figures["layers"], "teachers": list(teachers)}
    kept_figures |= {key: figures.get(key, {}) for key in ("probes", "probe_layers")}
    write_json(folder.gallery / FIGURES, kept_figures)
    write_atomically(folder.gallery / CLIPS, lambda path: save_file(tensors, path, metadata=about))


def spectrogram(samples: NDArray[np.float32], rate: int) -> NDArray[np.uint8]:
    """Return the power in dB below the maximum, from -80 (0) to 0 (255), uint8 [F, T]; the lowest frequency first."""
    from scipy.signal import ShortTimeFFT

    window, hop = int(WINDOW * rate), int(HOP * rate)
    found = np.abs(ShortTimeFFT(np.hanning(window), hop, rate).stft(samples)) ** 2
    level = 10 * np.log10(np.maximum(found / max(found.max(), 1e-12), 10 ** (FLOOR / 10)))
    return np.round((level - FLOOR) / -FLOOR * 255).astype(np.uint8)


def panels(folder: RunFolder) -> list[Panel]:
    """Return the panels of a run; none if their data were not kept."""
    if not (folder.gallery / FIGURES).is_file():
        return []
    kept = read_json(folder.gallery / FIGURES)
    names, found = kept["teachers"], []
    if rows := [row for row in _rows(folder) if "layers" in row]:
        found.append(_curves(rows, names))
    cells = tuple(
        (_teacher(each, names), str(each["layer"]), f"{each['distance']:.4f}", f"{each['cosine']:.4f}")
        for each in kept["layers"]
    )
    text = "How far the heads' predictions are from each teacher's hidden states."
    found.append(Panel("Teachers and layers", text, (), Table(("teacher", "layer", "distance", "cosine"), cells)))
    if kept["probes"]:
        found.append(_probes(kept["probes"], kept.get("probe_layers", {})))
    if (folder.gallery / CLIPS).is_file():
        found.append(_clips(folder))
    return found


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.metrics.is_file():
        return []
    return [
        row for row in MetricsLog(folder.metrics, folder.read_summary()["task"]).rows() if row["split"] == "validation"
    ]


def _teacher(row: Mapping[str, Any], names: Sequence[str]) -> str:
    number = row["teacher"]
    return f"{number} ({names[number]})" if number < len(names) else str(number)


def _curves(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Panel:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(rows[0]["layers"]):
        label = f"teacher {_teacher(each, names)}, layer {each['layer']}"
        axes.plot([row["epoch"] + 1 for row in rows], [row["layers"][place]["cosine"] for row in rows], label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="cosine")
    axes.legend(fontsize="small")
    return Panel(
        "Cosine over training",
        "Between the heads' predictions and each teacher's layer, on validation clips.",
        (figure,),
    )


def _probes(
    probes: Mapping[str, Mapping[str, Mapping[str, float]]], layers: Mapping[str, Mapping[str, Sequence[float]]]
) -> Panel:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    columns = [(label, kind) for label, kinds in next(iter(probes.values())).items() for kind in kinds]
    heads = [label if kind == "clean" else f"{label}, 0 dB" for label, kind in columns]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(probes)
    for number, (name, shares) in enumerate(probes.items()):
        values = [shares[label][kind] for label, kind in columns]
        axes.bar(np.arange(len(columns)) + (number - (len(probes) - 1) / 2) * width, values, width, label=name)
    axes.set_xticks(range(len(columns)), heads)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1)
    axes.legend(fontsize="small")
    cells = tuple((name, *(f"{shares[label][kind]:.2%}" for label, kind in columns)) for name, shares in probes.items())
    weighted = any(len(each) > 1 for several in layers.values() for each in several.values())
    what = "a weighted sum of all layers, whose weights it learns" if weighted else "the last layer"
    text = f"Share of test clips that a linear classifier of frozen features (mean over frames of {what}) gets right; it learns from clean training clips."
    return Panel("Linear probes", text, (figure,), Table(("features", *heads), cells))


def _clips(folder: RunFolder) -> Panel:
    from matplotlib.figure import Figure
    from safetensors import safe_open

    pictures: list[Figure] = []
    with safe_open(str(folder.gallery / CLIPS), "numpy") as file:
        about = file.metadata()
        for number, clip in enumerate(json.loads(about["clips"])):
            picture, seconds = file.get_tensor(f"spectrogram {number}"), float(clip["seconds"])
            differences = file.get_tensor(f"differences {number}")
            figure = Figure(figsize=(6, 3.6), layout="constrained")
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
            extent = (0, seconds, 0, int(about["rate"]) / 2000)
            above.imshow(picture, origin="lower", aspect="auto", extent=extent, cmap="magma")
            above.set(ylabel="kHz", title=clip["name"])
            times = (np.arange(len(differences)) + 0.5) * seconds / max(1, len(differences))
            below.plot(times, differences)
            for place in np.argsort(differences)[-3:]:
                below.axvline(times[place], alpha=0.3)
            below.set(xlabel="seconds", ylabel="1 - cosine")
            pictures.append(figure)
    text = f"Clips of the {about['split']} split; below, how far the student is from its teachers, frame by frame, with lines where it is farthest."
    return Panel("Where student and teachers differ", text, tuple(pictures))
