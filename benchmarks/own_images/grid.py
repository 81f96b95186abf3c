"""Compares the automatic settings with the best of a small grid: six folders of pictures, four networks, trained from scratch.

    python -m benchmarks.own_images.grid run --folders DIR --runs DIR [--only SETTING ...]   # goes on where it was stopped, and from grid.json
    python -m benchmarks.own_images.grid table --runs DIR                                    # writes benchmarks/results/own_images

Folders come from benchmarks/own_images/folders.py. Every arm of a cell has the same images, size, batch, epochs and augmentation: those
that `auto` chooses, except that networks other than the CIFAR CNN train for half of its epochs, on images of 48 pixels (64 for the folder
of 96), so that the grid finishes within hours on one core. Arms differ in optimizer and learning rate, and in the weight decay that goes with the optimizer: AdamW
excludes normalisation and biases and uses 0.05, SGD uses 5e-4. Figures are those of the mean student on the validation split after the last
epoch. If `auto` chooses exactly one of the grid's arms, that arm is not trained a second time.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import timm

import coterie
import coterie.networks  # registers the CIFAR networks with timm
from benchmarks import shared
from benchmarks.shared import script_parser
from coterie.recipe import load_recipe
from coterie.recipe.fitting import Facts, fit
from coterie.tasks.images.family import family_of

RESULTS = shared.RESULTS / "own_images"
SETTINGS = ("digits", "classes8", "classes20", "unequal", "cifar10", "classes100")
NETWORKS = {
    "CNN": "resnet10t",
    "mobile CNN": "mobilenetv3_small_050",
    "transformer": "vit_tiny_patch16_224",
    "CIFAR CNN": "resnet8_cifar",
}
DEFAULT = "mobilenetv4_conv_small"  # for folders; its arms are those between which the grid of the other mobile network decided
SGD = {"name": "sgd", "weight_decay": 5e-4, "exclude_norm_and_bias": False}
ADAMW = {"name": "adamw", "weight_decay": 0.05, "exclude_norm_and_bias": True}
GRID: dict[str, dict[str, Any]] = {
    "sgd 0.1": {**SGD, "learning_rate": 0.1},
    "sgd 0.02": {**SGD, "learning_rate": 0.02},
    "adamw 2e-3": {**ADAMW, "learning_rate": 2e-3},
    "adamw 5e-4": {**ADAMW, "learning_rate": 5e-4},
}
ARMS: dict[str, dict[str, Any]] = {**GRID, "auto": {}}  # no settings of its own: `auto` chooses


def image_size(setting: str, network: str) -> int | None:
    """Return the side in pixels; None: the images' own size."""
    if network.endswith("_cifar"):
        return None if setting in {"digits", "cifar10"} else 32
    return 64 if setting == "unequal" else 48


def epochs_of(network: str, images: int) -> int:
    """Return the epochs that `auto` chooses for a CIFAR CNN, and half of that for the others."""
    epochs = max(30, min(100, round(1000 * 32 / images)))
    return epochs if network.endswith("_cifar") else epochs // 2


def chosen_arm(network: str, images: int) -> str | None:
    """Return the grid's arm that equals the choice of `auto`; None: there is none."""
    family = family_of(timm.create_model(network, num_classes=10))
    recipe = load_recipe({"data": {"name": "digits"}, "network": {"name": network}, "training": {"batch_size": 32}})
    found = fit(recipe, Facts(family, pretrained=False, samples=images))[0].optimizer.model_dump()
    return next((arm for arm, asked in GRID.items() if all(found[key] == value for key, value in asked.items())), None)


def train_arm(setting: str, network: str, arm: str, folders: Path, runs: Path) -> None:
    """Train one arm and write its figures, unless they exist."""
    path = runs / setting / network / f"{arm.replace(' ', '_')}.json"
    if path.is_file():
        return
    images = sum(1 for each in (folders / setting / "train").rglob("*.*") if each.is_file())
    epochs = epochs_of(network, images)
    same = chosen_arm(network, images) if arm == "auto" else None
    if same:
        found = json.loads((path.parent / f"{same.replace(' ', '_')}.json").read_text())
        path.write_text(json.dumps({**found, "same_as": same}, indent=1))
        return
    optimizer = ARMS[arm]
    started = time.perf_counter()
    recipe = {
        "data": {"name": str(folders / setting), "image_size": image_size(setting, network)},
        "network": {"name": network, "pretrained": False},
        "method": {"name": "baseline"},
        "optimizer": optimizer,
        "schedule": {"name": "cosine", "warmup_epochs": 0.05 * epochs},
        "training": {"epochs": epochs, "batch_size": 32, "device": "cpu", "evaluate_every": epochs},
    }
    output = path.with_suffix("")
    try:
        summary = coterie.train(recipe, output=output, resume=(output / "recipe.yaml").is_file(), quiet=True).summary
        validation = summary["validation"]["mean_student"]
        test = summary["mean_student"]["top1"]
        found = {
            "top1": validation["top1"],
            "nll": validation["nll"],
            "test_top1": test,
            "train_top1": summary["train_top1"],
        }
    except coterie.CoterieError as error:
        found = {"top1": 0.0, "test_top1": 0.0, "error": str(error)}
    found |= {"epochs": epochs, "images": images, "seconds": time.perf_counter() - started}
    path.write_text(json.dumps(found, indent=1))
    print(setting, network, arm, found, flush=True)


def restore(runs: Path) -> None:
    """Copy the figures of the committed grid.json into a folder of runs that does not have them, so that nothing is trained twice."""
    kept = json.loads((RESULTS / "grid.json").read_text()) if (RESULTS / "grid.json").is_file() else {}
    for cell, found in kept.items():
        setting, _, network = cell.partition(", ")
        for arm, figures in found.items():
            path = runs / setting / network / f"{arm.replace(' ', '_')}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(figures, indent=1))


def write_table(runs: Path) -> None:
    """Write the results so far: one row per cell, with `auto` and the best of the others."""
    rows, differences, raw = [], [], {}
    for kind, network in NETWORKS.items():
        for setting in SETTINGS:
            paths = {arm: runs / setting / network / f"{arm.replace(' ', '_')}.json" for arm in ARMS}
            found = {arm: json.loads(path.read_text()) for arm, path in paths.items() if path.is_file()}
            raw[f"{setting}, {network}"] = found
            if len(found) < len(ARMS):
                continue
            best = max(found[arm]["top1"] for arm in GRID)
            differences.append(100 * (found["auto"]["top1"] - best))
            cells = [f"{100 * found[arm]['top1']:.1f}" for arm in ARMS]
            row = [kind, setting, *cells, f"{differences[-1]:+.1f}", str(found["auto"]["epochs"])]
            rows.append(f"| {' | '.join(row)} |")
    second = []
    for setting in SETTINGS:
        paths = {arm: runs / setting / DEFAULT / f"{arm.replace(' ', '_')}.json" for arm in GRID}
        found = {arm: json.loads(path.read_text()) for arm, path in paths.items() if path.is_file()}
        if found:
            raw[f"{setting}, {DEFAULT}"] = found
            cells = [f"{100 * found[arm]['top1']:.1f}" if arm in found else "" for arm in GRID]
            second.append(f"| {setting} | {' | '.join(cells)} |")
    head = ["network", "folder", *ARMS, "auto less best", "epochs"]
    lines = [
        "# Settings that are chosen, against a small grid",
        "",
        "Validation top-1 in %, one seed, method baseline, from nothing; benchmarks/own_images/grid.py says what is equal. A difference of two",
        "arms of a cell has a standard error of about two points, and the best of four is picked by luck as well. The rate of CIFAR networks was",
        "chosen on these figures, and that mobile networks from nothing have SGD at 0.02 (it was AdamW at 2e-3); test figures are in grid.json.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *rows,
        "",
    ]
    if differences:
        lines.append(f"{len(rows)} of {len(NETWORKS) * len(SETTINGS)} cells: `auto` less the best, median {statistics.median(differences):+.1f}, least {min(differences):+.1f} points.")  # fmt: skip
    if second:
        lines += [
            "",
            f"{DEFAULT}, the default network of folders; not part of the grid:",
            "",
            f"| folder | {' | '.join(GRID)} |",
            f"|{' --- |' * (1 + len(GRID))}",
            *second,
        ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "grid.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "grid.json").write_text(json.dumps(raw, indent=1) + "\n")


def main() -> None:
    parser = script_parser(__doc__, "runs")
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--folders", type=Path)
    parser.add_argument("--only", nargs="*", default=SETTINGS, help="folders")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), help="auto needs the others")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS.values()))
    arguments = parser.parse_args()
    restore(arguments.runs)
    if arguments.action == "table":
        write_table(arguments.runs)
        return
    for network in arguments.networks:
        for setting in arguments.only:
            for arm in arguments.arms:
                train_arm(setting, network, arm, arguments.folders, arguments.runs)


if __name__ == "__main__":
    main()
