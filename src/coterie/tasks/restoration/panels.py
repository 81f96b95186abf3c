"""Report panels of restoration: pictures, spectra, and how well the discriminator separates images over training.

The task keeps their data in the run's gallery: ``restoration.json``, and an image file for each picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.files import write_json
from coterie.run_folder import MetricsLog, RunFolder, read_json
from coterie.tasks.panels import Panel, Slider, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

FILE = "restoration.json"
KINDS = {"small": "small", "bicubic": "interpolated", "restored": "restored", "true": "true"}
ZOOM = 3  # factor by which the detail is smaller than the image


def save(
    folder: RunFolder, split: str, pictures: Sequence[Mapping[str, Tensor]], spectra: Mapping[str, Sequence[float]]
) -> None:
    """Write the data of the panels to the gallery, which must exist.

    Args:
        folder: the run folder.
        split: the evaluated split.
        pictures: images [3, H, W] in 0 to 1 of each example, by the keys of :data:`KINDS`.
        spectra: mean power by frequency, by kind.
    """
    from torchvision.transforms.functional import to_pil_image

    for number, images in enumerate(pictures):
        for kind, image in images.items():
            to_pil_image(image.clamp(0, 1).cpu()).save(_place(folder, number, kind))
    write_json(
        folder.gallery / FILE,
        {"split": split, "pictures": len(pictures), "spectra": {k: list(v) for k, v in spectra.items()}},
    )


def _place(folder: RunFolder, number: int, kind: str) -> Path:
    return folder.gallery / f"{kind}-{number}.png"


def panels(folder: RunFolder) -> list[Panel]:
    """Return the panels of a run; none if their data were not kept."""
    path = folder.gallery / FILE
    if not path.is_file():
        return []
    kept = read_json(path)
    found = []
    if kept["pictures"]:
        rows = tuple(_row(folder, number) for number in range(int(kept["pictures"])))
        text = f"Images of the {kept['split']} split: small, interpolated (bicubic), restored, true; below each a detail, enlarged. Above, draw the border by its lower end."
        sliders = tuple(
            Slider(
                _place(folder, number, "bicubic"),
                _place(folder, number, "restored"),
                f"{number}: interpolated | restored",
            )
            for number in range(int(kept["pictures"]))
        )
        found.append(Panel("Pictures", text, rows, _beside_bicubic(folder), sliders))
    text = f"Mean power of the {kept['split']} images by frequency: what restoring adds, and what is missing still."
    found.append(Panel("Spectra", text, (_spectra(kept["spectra"]),)))
    margins = [
        (row["epoch"] + 1, row["statistics"]["margin"])
        for row in MetricsLog(folder.metrics, "restoration").rows()
        if row["split"] == "validation" and "margin" in row.get("statistics", {})
    ]
    if margins:
        text = "D(real) - D(made) on the validation split, as probabilities: at 0 the discriminator sees no difference."
        found.append(Panel("What the discriminator tells apart", text, (_curve(margins),)))
    return found


def _beside_bicubic(folder: RunFolder) -> Table | None:
    """Return a table of the figures of restored and interpolated images."""
    from coterie.tasks.restoration.declared import FIGURES

    summary = folder.read_summary()
    if "bicubic" not in summary:
        return None
    shown = [each for each in FIGURES if each.key in summary["bicubic"]]
    rows = [(name, summary[key]) for name, key in (("interpolated", "bicubic"), ("restored", "deployed"))]
    cells = tuple((name, *(each.show(values[each.key]) for each in shown)) for name, values in rows)
    return Table(("images", *(each.label for each in shown)), cells)


def _row(folder: RunFolder, number: int) -> Figure:
    """Plot the four images of an example, with a detail of each below."""
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(8.8, 4.5), layout="constrained")
    grid: Any = figure.subplots(2, len(KINDS))
    for column, (kind, name) in enumerate(KINDS.items()):
        with Image.open(_place(folder, number, kind), formats=("PNG",)) as image:
            shown = image.convert("RGB")
        _show(grid[0, column], shown, name)
        width, height = shown.size
        left, top = (side * (ZOOM - 1) // (2 * ZOOM) for side in (width, height))
        _show(grid[1, column], shown.crop((left, top, left + max(1, width // ZOOM), top + max(1, height // ZOOM))), "")
    return figure


def _show(axes: Axes, image: Any, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()


def _spectra(spectra: Mapping[str, Sequence[float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind in ("true", "restored", "bicubic"):
        values = spectra[kind]
        places = [(number + 0.5) / (2 * len(values)) for number in range(len(values))]
        axes.plot(places, [max(value, 1e-12) for value in values], label=KINDS[kind])
    axes.set_yscale("log")
    axes.set(xlabel="cycles a pixel", ylabel="power")
    axes.legend()
    return figure


def _curve(points: Sequence[tuple[float, float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="epoch", ylabel="D(real) - D(made)")
    return figure
