"""The plan of a comparison: its arms, seeds and reference, stored in ``plan.json`` of its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from coterie.comparison.folder import ComparisonFolder, Plan, PlanContent, file_name
from coterie.errors import CoterieError, did_you_mean
from coterie.files import write_json
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.recipe import differing_keys, require_no_code
from coterie.run_folder import read_json
from coterie.run_schema import validated


def require_folders_apart(labels: Iterable[str]) -> None:
    """Refuse labels whose runs would share a folder; some file systems ignore case."""
    by_file: dict[str, str] = {}
    for label in labels:
        other = by_file.setdefault(file_name(label).casefold(), label)
        if other != label:
            raise CoterieError(f"the labels {other!r} and {label!r} give the same folder name; use letters and digits")


def make_plan(arms: dict[str, Recipe], seeds: int | Sequence[int]) -> Plan:
    """Makes a plan from arms; ``seeds`` is a number of seeds from 0, or the seeds themselves.

    The reference is the first arm whose method is the baseline, else the first arm.

    Raises:
        CoterieError: there are no seeds or no arms, a seed is repeated, or the arms are of several tasks.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= seed < 2**31 for seed in chosen):
        raise CoterieError(f"seeds={seeds}: expected a number of seeds, or different seeds such as 3,5,7")
    if not arms:
        raise CoterieError("nothing to compare: expected at least one recipe")
    _require_one_task(arms)
    baselines = [label for label, recipe in arms.items() if recipe.method.name == "baseline"]
    return Plan(arms, chosen, (baselines or list(arms))[0])


def _require_one_task(arms: Mapping[str, Recipe]) -> None:
    """Checks that all arms have the same task: figures of different tasks are not comparable.

    Raises:
        CoterieError: the arms are of several tasks.
    """
    tasks = sorted({recipe.task for recipe in arms.values()})
    if len(tasks) > 1:
        raise CoterieError(f"the arms are of several tasks, {', '.join(tasks)}: compare those of one")


def with_reference(plan: Plan, reference: str) -> Plan:
    """Returns the plan with another reference.

    Raises:
        CoterieError: the reference is not an arm.
    """
    if reference not in plan.arms:
        raise CoterieError(
            f"the reference {reference!r} is no arm{did_you_mean(reference, plan.arms)}; arms are {', '.join(plan.arms)}"
        )
    return replace(plan, reference=reference)


def require_place(folder: ComparisonFolder, plan: Plan, reference: str | None = None) -> None:
    """Checks the reference and the folder of a new comparison, before anything is written.

    Raises:
        CoterieError: the reference is not an arm, or the folder is not empty and holds no comparison.
    """
    if folder.is_comparison:
        return
    if reference is not None:
        with_reference(plan, reference)
    if folder.path.is_dir() and any(path.name[:1] != "." for path in folder.path.iterdir()):
        raise CoterieError(f"{str(folder.path)!r} is not empty and holds no comparison; choose another --output")


def keep_plan(folder: ComparisonFolder, plan: Plan, reference: str | None = None, *, trust_code: bool = False) -> Plan:
    """Write the plan; a stored plan is extended by further arms and seeds. The caller must hold the folder's lock.

    Args:
        folder: the comparison's folder.
        plan: the plan to write.
        reference: label of an arm; None: the stored plan's reference, in a new folder that of ``plan``.
        trust_code: whether arms that only the stored plan has may name methods by ``package.module:Class``.

    Raises:
        CoterieError: an arm was started with other settings, the reference is not an arm, or the folder is not empty and holds no comparison.
    """
    require_place(folder, plan, reference)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        if folder.is_comparison:
            stored = read_plan(folder)
            require_trust(folder, stored, trust_code, besides=plan)
            plan = _extended(folder, stored, plan)
        if reference is not None:
            plan = with_reference(plan, reference)
        arms = {label: _without_seed(recipe) for label, recipe in plan.arms.items()}
        write_json(folder.plan, {"reference": plan.reference, "seeds": list(plan.seeds), "arms": arms})
    except OSError as error:
        raise CoterieError(f"cannot write to {str(folder.path)!r}: {error.strerror}") from None
    return plan


def require_trust(folder: ComparisonFolder, stored: Plan, trust_code: bool, besides: Plan | None = None) -> None:
    """Refuse arms of a stored plan that would import code, except with ``trust_code`` or if the call itself names them.

    Raises:
        CoterieError: there is such an arm.
    """
    for label, recipe in stored.arms.items() if not trust_code else ():
        if besides is None or label not in besides.arms:
            require_no_code(recipe, str(folder.plan))


def _extended(folder: ComparisonFolder, stored: Plan, plan: Plan) -> Plan:
    for label in stored.arms.keys() & plan.arms.keys():
        different = (
            set(differing_keys(stored.arms[label], plan.arms[label])) - plan.arms[label].without_effect - {"seed"}
        )
        if different and folder.has_begun(label):
            raise CoterieError(
                f"{str(folder.path)!r} holds a comparison in which {label!r} has other settings "
                f"({', '.join(sorted(different)[:5])}); choose another --output"
            )
    arms = {**stored.arms, **plan.arms}
    _require_one_task(arms)
    require_folders_apart(arms)
    seeds = (*stored.seeds, *(seed for seed in plan.seeds if seed not in stored.seeds))
    return Plan(arms, seeds, stored.reference)


def _without_seed(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key != "seed"}


def read_plan(folder: ComparisonFolder) -> Plan:
    """Reads the plan of a comparison. This imports no method; call :func:`require_trust` before training one.

    Raises:
        CoterieError: there is no plan, or it is damaged.
    """
    if not folder.is_comparison:
        raise CoterieError(f"{str(folder.path)!r} is not a comparison: expected a folder with plan.json")
    stored = validated(PlanContent, read_json(folder.plan), folder.plan)
    try:
        arms = {label: load_recipe(tree) for label, tree in stored.arms.items()}
        return with_reference(make_plan(arms, stored.seeds), stored.reference)
    except CoterieError as error:
        raise CoterieError(f"{str(folder.plan)!r} is damaged: {error}") from None
