"""Measures the mechanisms of methods, beyond accuracy, on the finished runs of benchmarks/teachers/compare.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.teachers.analysis import trained

EPOCHS_SHOWN = (1, 10, 20, 40)


def finished(output: Path, seeds: list[int]) -> Iterator[tuple[str, list[tuple[Any, Any, Path]]]]:
    """Yield each label with task, method and folder of each of its finished runs."""
    for label in json.loads((output / "plan.json").read_text())["arms"]:
        folders = [output / "runs" / label / f"seed{seed}" for seed in seeds]
        yield label, [(*trained(folder), folder) for folder in folders if _has_ended(folder)]


def _has_ended(run: Path) -> bool:
    summary = run / "summary.json"
    return summary.is_file() and json.loads(summary.read_text())["status"] == "finished"


def spread(values: list[float], form: str = ".3f") -> str:
    """Format mean ± standard deviation over seeds."""
    deviation = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{deviation}"


@torch.no_grad()
def divergence_on_mixtures(output: Path, seeds: list[int]) -> list[str]:
    """Measure KL(teacher || student) for every arm on held-out images and on mixtures of two of them.

    An arm without a teacher is compared with the teacher of the arm ``kd``.
    """
    lines = ["", "# Divergence on held-out images", "", "KL(teacher || student), nats, on the validation images and on mixtures of two of them (share uniform in 0 to 1, the same for every arm); mean ± standard deviation over seeds. The teacher is the arm's own, without one that of `kd`.", "", "| arm | images, T = 1 | mixtures, T = 1 | images, T = 4 | mixtures, T = 4 |", "|---|---|---|---|---|"]  # fmt: skip
    arms = dict(finished(output, seeds))
    default = arms["kd"][0][1].teachers
    for label, runs in arms.items():
        found: list[list[float]] = []
        for task, method, _ in runs:
            teachers = getattr(method, "teachers", default)
            generator = torch.Generator().manual_seed(0)
            sums, count = np.zeros(4), 0
            for batch in task.data.validation:
                share = torch.rand(len(batch.inputs), 1, 1, 1, generator=generator)
                mixed = share * batch.inputs + (1 - share) * batch.inputs.flip(0)
                for place, images in enumerate((batch.inputs, mixed)):
                    logits, wanted = method.group(images).logits[0], teachers(images)[0].logits
                    for further, temperature in enumerate((1.0, 4.0)):
                        divergence = F.kl_div(
                            torch.log_softmax(logits / temperature, -1),
                            torch.log_softmax(wanted / temperature, -1),
                            reduction="sum",
                            log_target=True,
                        )
                        sums[place + 2 * further] += float(divergence)
                count += len(batch.inputs)
            found.append(list(sums / count))
        lines.append(f"| {label} | {' | '.join(spread(list(column)) for column in zip(*found, strict=True))} |")
    return lines


@torch.no_grad()
def denoising(output: Path, seeds: list[int]) -> list[str]:
    """Measure DiffKD's mechanism on the validation images: before and after training, with BatchNorm's batch statistics and with the running ones."""
    names = ("diffusion_loss", "distance", "distance_without", "cosine", "cosine_without", "gamma")
    lines = ["", "# Denoising", "", "On the validation images, of the map's tap; mean ± standard deviation over seeds. Diffusion loss before training and after it; mean square distance from the teacher's map, and cosine, of the student's map denoised (or put through the control's projector) and projected, and of the same projected only, for which nothing but `diffkd-none` is trained; mean gamma. BatchNorm in the diffusion model, the adapter and the projection goes by the batch's statistics, as in training, or by the running ones.", "", "| arm | statistics | diffusion loss before | after | distance, denoised | projected only | cosine, denoised | projected only | gamma |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    curves = ["", f"Diffusion loss in training (both taps together), epochs {', '.join(map(str, EPOCHS_SHOWN))}:", ""]
    for label, runs in finished(output, seeds):
        if not hasattr(runs[0][1], "feature"):
            continue
        diffuses = runs[0][1].feature.diffuses
        for kind in ("running", "batch"):
            before = [_mechanism(task, task.build_method().eval(), kind) for task, _, _ in runs]
            after = [_mechanism(task, method, kind) for task, method, _ in runs]
            cells = [spread([each[name] for each in after]) if name in after[0] else "–" for name in names]
            start = spread([each["diffusion_loss"] for each in before]) if diffuses else "–"
            lines.append(f"| {label} | {kind} | {start} | {' | '.join(cells)} |")
        if not diffuses:
            continue
        losses: list[list[float]] = []
        for _, _, folder in runs:
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            by_epoch = {row["epoch"]: row["losses"]["diffusion"] for row in rows if row["split"] == "train"}
            losses.append([by_epoch[epoch - 1] for epoch in EPOCHS_SHOWN])  # epochs count from 0
        curves.append(f"- {label}: {', '.join(spread(list(column), '.2f') for column in zip(*losses, strict=True))}")
    return lines + curves


def _mechanism(task: Any, method: Any, statistics: str) -> dict[str, float]:
    torch.manual_seed(0)  # the noise is the same for every arm
    method.feature.train(statistics == "batch")  # changes the running statistics, so these are measured first
    look = method.mechanism if method.feature.diffuses else lambda images: _plain(method, images)
    each = [look(batch.inputs) for batch in task.data.validation]
    return {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def _plain(method: Any, images: Tensor) -> dict[str, float]:
    """Measure the same distance and cosine for a control, which has only the projected map."""
    (teacher,) = method.teacher_outputs(images)
    wanted, _ = method.feature.target(teacher.feature_map)
    own, _ = method.feature.student(method.group(images).feature_maps[0], wanted)
    cosine = F.cosine_similarity(own.flatten(1), wanted.flatten(1)).mean()
    place = "" if method.feature.kind == "projector" else "_without"
    return {f"distance{place}": float(F.mse_loss(own, wanted)), f"cosine{place}": float(cosine)}


def _exits(method: Any) -> Callable[[Any], dict[str, Tensor]] | None:
    """Return a function to the logits of all exits of a self-distillation method, by name, from the input to the output."""
    if hasattr(method, "exit_outputs"):
        return lambda output: {
            f"exit {n + 1}": logits for n, logits in enumerate(method.exit_outputs(output)[0])
        } | {"student": output.logits[0]}  # fmt: skip
    if hasattr(method, "levels"):

        def levels(output: Any) -> dict[str, Tensor]:
            logits, fused, _ = method.levels(output)
            each = {f"exit {number + 1}": level for number, level in enumerate(logits)}
            return {**each, "fused": fused, "student": output.logits[0]}

        return levels
    if hasattr(method, "pyramid"):
        return lambda output: {"pyramid": method.pyramid(output.taps[0])[0], "student": output.logits[0]}
    return None


@torch.no_grad()
def exit_accuracies(output: Path, seeds: list[int]) -> list[str]:
    """Measure the test accuracy of every exit, and whether the teaching exit is better than the taught ones."""
    lines = ["", "# Every exit", "", "Test top-1 (%), mean ± standard deviation over seeds. Exits count from the input; in BYOT the student teaches them, in multilevel the fused head all, in FRSKD the pyramid the student.", "", "| arm | exits | what teaches in its own right | student |", "|---|---|---|---|"]  # fmt: skip
    for label, runs in finished(output, seeds):
        found: list[dict[str, float]] = []
        for task, method, _ in runs:
            read = _exits(method)
            if read is None:
                continue
            right: dict[str, int] = {}
            for batch in task.data.test:
                for name, logits in read(method.group(batch.inputs)).items():
                    right[name] = right.get(name, 0) + int((logits.argmax(-1) == batch.targets).sum())
            found.append({name: 100 * count / task.data.test.num_samples for name, count in right.items()})
        if not found:
            continue
        cells = {name: spread([each[name] for each in found], ".2f") for name in found[0]}
        student = cells.pop("student")
        teacher = "; ".join(f"{name} {cell}" for name, cell in cells.items() if not name.startswith("exit"))
        shallow = "; ".join(f"{name[5:]}: {cell}" for name, cell in cells.items() if name.startswith("exit"))
        lines.append(f"| {label} | {shallow} | {teacher} | {student} |")
    return lines
