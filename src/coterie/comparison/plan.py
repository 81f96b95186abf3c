"""What a comparison consists of: its arms, seeds and reference, kept in ``plan.json`` of its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coterie.errors import CoterieError, did_you_mean
from coterie.files import write_json
from coterie.methods import find_method
from coterie.methods.options import check_options
from coterie.recipe import Recipe, differing_keys, load_recipe
from coterie.training.records import read_json

RecipeSource = str | Path | Recipe | Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One training: an arm with a seed."""

    label: str
    seed: int
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """Arms by label (their recipes' own seed has no meaning), seeds, and the arm that the others are compared with."""

    arms: dict[str, Recipe]
    seeds: tuple[int, ...]
    reference: str

    def jobs(self) -> list[Job]:
        """Every training, in rounds of one seed for every arm, so that a stop leaves a balanced table."""
        return [
            Job(label, seed, recipe.model_copy(update={"seed": seed}))
            for seed in self.seeds
            for label, recipe in self.arms.items()
        ]


class ComparisonFolder:
    """Paths of one comparison."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan = self.path / "plan.json"
        self.comparison = self.path / "comparison.json"
        self.report = self.path / "report.html"

    @property
    def is_comparison(self) -> bool:
        return self.plan.is_file()

    def run(self, job: Job) -> Path:
        """The run folder of a job."""
        return self.path / "runs" / _file_name(job.label) / f"seed{job.seed}"

    def claim(self, job: Job) -> Path:
        """The file by which a process says that it works on a job."""
        return self.run(job).with_suffix(".claim")

    def failure(self, job: Job) -> Path:
        """The file that holds the error of a job that failed."""
        return self.run(job).with_suffix(".error")


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip(".-") or "arm"


def build_arms(
    recipes: Sequence[RecipeSource] | Mapping[str, RecipeSource],
    methods: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Recipe]:
    """The arms of recipes and methods, each checked as far as it can be without data.

    A recipe's ``method.*`` settings belong to its own method; where another one takes its place, that one has its defaults. The
    recipe's students and split point hold for all, except for methods that train one network (the baseline).

    Args:
        recipes: files, mappings or recipes; or a mapping from labels to them. None at all: the defaults (the digits demo).
        methods: names that each recipe is run with; None: its own.
        overrides: ``key=value`` for all arms.

    Returns:
        Label -> recipe: the method's name, with several recipes ``<recipe>:<method>``, or the mapping's labels.

    Raises:
        CoterieError: an unknown method or setting, or two arms of one label.
    """
    named = _named(recipes)
    several = len(named) > 1
    arms: dict[str, Recipe] = {}
    for name, source in named.items():
        own = load_recipe(source)
        for method in methods or [own.method.name]:
            tree = own.model_dump()
            if method != own.method.name:
                tree["method"] = {"name": method}
                if _trains_fewer(method, own.network.branches):
                    tree["network"] |= {"branches": None, "at": None}
            recipe = load_recipe(tree, overrides)
            check_options(find_method(recipe.method.name), recipe.method.options)
            if isinstance(recipes, Mapping) and methods is None:
                label = name
            else:
                label = f"{name}:{method}" if several else method
            if label in arms:
                raise CoterieError(f"two arms are called {label!r}; name every recipe and method once")
            arms[label] = recipe
    files = {_file_name(label) for label in arms}
    if len(files) < len(arms):
        raise CoterieError(
            f"the labels {', '.join(map(repr, arms))} give the same folder names; use letters and digits"
        )
    return arms


def _trains_fewer(method: str, branches: int | None) -> bool:
    """Whether a method (the baseline, a lone student's) cannot have as many students as a recipe names."""
    most = find_method(method).max_students
    return branches is not None and most is not None and branches > most


def _named(recipes: Sequence[RecipeSource] | Mapping[str, RecipeSource]) -> dict[str, RecipeSource | None]:
    if isinstance(recipes, Mapping):
        return dict(recipes)
    if not recipes:
        return {"digits": None}
    named: dict[str, RecipeSource | None] = {}
    for number, source in enumerate(recipes):
        name = Path(source).stem if isinstance(source, (str, Path)) else f"recipe{number}"
        if name in named:
            raise CoterieError(f"two recipes are called {name!r}; rename one of the files")
        named[name] = source
    return named


def make_plan(arms: dict[str, Recipe], seeds: int | Sequence[int], reference: str | None) -> Plan:
    """A plan of these arms; ``seeds`` is a number of seeds from 0, or the seeds themselves.

    Raises:
        CoterieError: no seeds, a repeated one, or a reference that is no arm.
    """
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or len(set(chosen)) < len(chosen) or any(seed < 0 for seed in chosen):
        raise CoterieError(f"seeds={seeds}: expected a number of seeds, or different seeds such as 3,5,7")
    if reference is None:
        reference = next(
            (label for label, recipe in arms.items() if recipe.method.name == "baseline"), next(iter(arms))
        )
    if reference not in arms:
        raise CoterieError(
            f"the reference {reference!r} is no arm{did_you_mean(reference, arms)}; arms are {', '.join(arms)}"
        )
    return Plan(arms, chosen, reference)


def keep_plan(folder: ComparisonFolder, plan: Plan) -> Plan:
    """Write the plan; where there is one, extend it by further arms and seeds.

    Raises:
        CoterieError: an arm that was planned with other settings, or a folder with something else in it.
    """
    if folder.is_comparison:
        stored = read_plan(folder)
        for label in stored.arms.keys() & plan.arms.keys():
            different = [key for key in differing_keys(stored.arms[label], plan.arms[label]) if key != "seed"]
            if different:
                raise CoterieError(
                    f"{str(folder.path)!r} holds a comparison in which {label!r} has other settings ({', '.join(different[:5])}); "
                    "choose another --output"
                )
        seeds = (*stored.seeds, *(seed for seed in plan.seeds if seed not in stored.seeds))
        plan = replace(plan, arms={**stored.arms, **plan.arms}, seeds=seeds)
    elif folder.path.is_dir() and any(folder.path.iterdir()):
        raise CoterieError(f"{str(folder.path)!r} is not empty and holds no comparison; choose another --output")
    folder.path.mkdir(parents=True, exist_ok=True)
    arms = {label: _without_seed(recipe) for label, recipe in plan.arms.items()}
    write_json(folder.plan, {"reference": plan.reference, "seeds": list(plan.seeds), "arms": arms})
    return plan


def _without_seed(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key != "seed"}


def read_plan(folder: ComparisonFolder) -> Plan:
    """The plan of a comparison.

    Raises:
        CoterieError: there is none, or it is damaged.
    """
    if not folder.is_comparison:
        raise CoterieError(f"{str(folder.path)!r} is not a comparison: expected a folder with plan.json")
    stored = read_json(folder.plan)
    try:
        arms = {label: load_recipe(tree) for label, tree in stored["arms"].items()}
        return Plan(arms, tuple(int(seed) for seed in stored["seeds"]), str(stored["reference"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CoterieError(f"{str(folder.plan)!r} is damaged: {error!r}") from None
