"""Analyses of the comparisons of benchmarks/teachers/compare.py beyond their tables: paired differences, and the choice of an assistant and of an expert."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def share_assistants(output: Path, others: dict[str, dict[str, Any]], seeds: list[int]) -> None:
    """Copy the candidates trained by the arm ``amd`` to the arms with another choice among them; the choice is repeated."""
    from coterie.recipe import load_recipe
    from coterie.run_folder import RunFolder
    from coterie.tasks.images.teachers import first_stage

    for label, arm in others.items():
        for seed in seeds:
            run, trained = (
                output / "runs" / label / f"seed{seed}",
                output / "runs" / "amd" / f"seed{seed}" / "assistant",
            )
            recipe = load_recipe({**arm, "seed": seed})
            stage = first_stage(recipe)
            if (run / "recipe.yaml").is_file() or stage is None:
                continue
            shutil.copytree(trained, run / "assistant", dirs_exist_ok=True)
            RunFolder(run / "assistant").summary.unlink()  # so that the run resumes at its end
            RunFolder(run / "assistant").recipe.write_text(stage.to_yaml())
            RunFolder(run).recipe.write_text(recipe.to_yaml())


def regret(folder: Path, seeds: list[int], sparsities: list[float]) -> list[str]:
    """Compare the chosen assistant's student with those of all other candidates."""
    from scipy.stats import spearmanr

    lines = ["", "# The choice of the assistant", ""]
    lines += ["Validation accuracy of the candidates, test accuracy of their students (%); regret: the best student's lead over the chosen one's.", ""]  # fmt: skip
    lines += ["| seed | candidate (share of parameters): own accuracy, student's | chosen by NPSD | by the trade-off | regret of NPSD | of the trade-off | rank correlation of NPSD with the students |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for seed in seeds:
        first = json.loads((folder / "runs" / "amd" / f"seed{seed}" / "assistant" / "summary.json").read_text())
        scales = first["statistics"]["scale"]
        own = [student["top1"] for student in first["validation"]["students"]]
        students = [
            json.loads((folder / "runs" / f"amd-{share:g}" / f"seed{seed}" / "summary.json").read_text())["deployed"]["top1"]
            for share in sparsities
        ]  # fmt: skip
        derivative = [-(own[0] - p) / (1 - s) for p, s in zip(own[1:], scales[1:], strict=True)]
        tradeoff = [p + 0.2 * (1 - s) for p, s in zip(own[1:], scales[1:], strict=True)]
        picks = [values.index(max(values)) for values in (derivative, tradeoff)]
        cells = [f"{share:g} ({s:.2f}): {100 * p:.1f}, {100 * t:.2f}" for share, s, p, t in zip(sparsities, scales[1:], own[1:], students, strict=True)]  # fmt: skip
        missed = [f"{100 * (max(students) - students[pick]):.2f}" for pick in picks]
        chosen = [f"{sparsities[pick]:g}" for pick in picks]
        rank = spearmanr(derivative, students).statistic
        lines.append(f"| {seed} | whole: {100 * own[0]:.1f}; {'; '.join(cells)} | {' | '.join(chosen)} | {' | '.join(missed)} | {rank:+.2f} |")  # fmt: skip
    return lines


def figures_of(folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """Return the figures of the finished runs of a committed comparison, by label and seed."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    for run in json.loads((folder / "comparison.json").read_text())["runs"]:
        if run["status"] == "finished":
            figures.setdefault(run["label"], {})[run["seed"]] = run["figures"]
    return figures


def trained(folder: Path) -> tuple[Any, Any]:
    """Return the task of a finished run, with its data and teachers, and its method after the last epoch, in eval mode."""
    from coterie.recipe import load_recipe
    from coterie.run_folder import RunFolder
    from coterie.running.accelerator import build_accelerator
    from coterie.tasks.task import find_task
    from coterie.training.checkpoint import load_checkpoint

    run = RunFolder(folder)
    recipe = load_recipe(run.recipe)
    task = find_task(recipe)(recipe, build_accelerator(recipe))
    method: Any = task.build_method()
    method.load_state_dict(load_checkpoint(run.last)["method"])
    return task, method.eval()


def contrasts(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return the deciding paired differences, from the figures of the committed comparison."""
    from coterie.metrics.statistics import paired_difference

    figures = figures_of(folder)
    lines = ["# What decides", "", "Paired by seed: mean ± standard error (p of the paired t test, uncorrected).", ""]
    lines += ["| arm | − control | seeds | top-1, points | NLL |", "|---|---|---|---|---|"]
    for arm, control in pairs:
        seeds = sorted(figures.get(arm, {}).keys() & figures.get(control, {}).keys())
        if len(seeds) < 2:
            continue
        cells = []
        for name, scale in (("primary.top1", 100), ("primary.nll", 1)):
            ours, theirs = ([scale * figures[label][seed][name] for seed in seeds] for label in (arm, control))
            found = paired_difference(ours, theirs)
            p = "" if found.p_t is None else f" ({found.p_t:.3f})"  # none between equal runs
            cells.append(f"{found.mean:+.2f} ± {found.standard_error:.2f}{p}")
        lines.append(f"| {arm} | {control} | {len(seeds)} | {' | '.join(cells)} |")
    return lines


def right_expert(output: Path, clean: Path, seeds: list[int], experts: int) -> list[str]:
    """Measure the weight of the expert of a sample's true class, and how often it is the largest, by the last epoch's student and policy, on the training samples without augmentation.

    Also give the possible gain: the accuracy of the experts alone, together, and if the right one is always selected.
    """
    import torch

    from coterie.recipe import load_recipe
    from coterie.run_folder import RunFolder

    with np.load(clean / "train.npz", allow_pickle=False) as file:
        truth = torch.from_numpy(file["labels"])
    lines = ["", "# The right expert", "", f"The one that has seen all images of the sample's true class. Its weight among the teachers, and how often no other has more (ties by lot), on samples with a right and with a wrong label; {1 / experts:.2f} by chance; mean ± standard deviation over seeds.", "", "| arm | weight, right label | weight, wrong label | first, right label | first, wrong label |", "|---|---|---|---|---|"]  # fmt: skip
    task: Any = None
    for path in sorted((output / "runs").iterdir()):
        shares: list[list[float]] = []
        for seed in seeds:
            folder = RunFolder(path / f"seed{seed}")
            if not folder.is_run or load_recipe(folder.recipe).method.name != "rl_kd":
                continue
            task, method = trained(path / f"seed{seed}")
            weights, labelled = [], []
            for batch in task.data.train_evaluation:
                right = truth[batch.indices] % experts
                chosen = method.choices(batch.inputs, batch.targets)
                first = (chosen == chosen.max(0).values).float()
                both = torch.stack([chosen, first / first.sum(0)])
                weights.append(both.gather(1, right.expand(2, 1, -1))[:, 0])
                labelled.append(batch.targets == truth[batch.indices])
            weight, is_right = torch.cat(weights, dim=1), torch.cat(labelled)
            # Without wrong labels, their mean is nan.
            shares.append([float(each[mask].mean()) for each in weight for mask in (is_right, ~is_right)])
        if len(shares) > 1:
            columns = np.array(shares).T
            cells = [f"{np.mean(c):.3f} ± {np.std(c, ddof=1):.3f}" if np.isfinite(c).all() else "" for c in columns]
            lines.append(f"| {path.name} | {' | '.join(cells)} |")
    return lines if task is None else lines + _experts_themselves(task, method, experts)


def _experts_themselves(task: Any, method: Any, experts: int) -> list[str]:
    """Return the accuracy of the experts on the validation split."""
    import torch

    found: dict[str, list[Any]] = {}
    with torch.no_grad():
        for batch in task.data.validation:
            said = torch.stack([output.logits for output in method.teachers(batch.inputs)]).softmax(-1)
            own = batch.targets % experts
            asked = said.gather(0, own.expand(said.shape[-1], 1, -1).permute(1, 2, 0))[0]
            named = {f"expert {number}": each for number, each in enumerate(said)}
            for name, prediction in {**named, "mean of all": said.mean(0), "the right one": asked}.items():
                found.setdefault(name, []).append(prediction.argmax(-1) == batch.targets)
    cells = [f"{name} {100 * float(torch.cat(right).float().mean()):.1f}" for name, right in found.items()]
    return ["", f"Top-1 (%) of the experts on the validation split: {'; '.join(cells)}."]


def tuned_gamma(folder: Path, gammas: Sequence[float], weights: Sequence[float]) -> list[str]:
    """Compare OFA's exponents, each with its best weight on validation, with the first exponent and with KD at T = 1, also with its best weight."""
    figures = figures_of(folder)

    def mean(label: str, name: str) -> float:
        return 100 * float(np.mean([found[name] for found in figures[label].values()]))

    def best(stem: str) -> str:
        return max((f"{stem}-weight-{weight:g}" for weight in weights), key=lambda label: mean(label, "validation.primary.top1"))  # fmt: skip

    stems = ["kd-T1", *(f"ofa-{gamma:g}" for gamma in gammas)]
    lines = ["", "# The exponent with the weight of its term tuned", "", "Top-1 (%) on validation, and on test, by the weight of the distillation terms (exits' too); means over seeds.", ""]  # fmt: skip
    lines += [f"| | {' | '.join(f'{weight:g}' for weight in weights)} | chosen on validation |", "|---" * (len(weights) + 2) + "|"]  # fmt: skip
    for stem in stems:
        labels = [f"{stem}-weight-{weight:g}" for weight in weights]
        cells = [f"{mean(label, 'validation.primary.top1'):.2f}, {mean(label, 'primary.top1'):.2f}" for label in labels]
        lines.append(f"| {stem} | {' | '.join(cells)} | {best(stem).rsplit('-', 1)[1]} |")
    pairs = [(best(stem), best(other)) for number, stem in enumerate(stems) for other in stems[:number]]
    return [*lines, "", *contrasts(folder, pairs)[2:]]
