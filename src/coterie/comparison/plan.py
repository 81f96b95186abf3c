"""What a comparison consists of: its arms, seeds and reference, kept in ``plan.json`` of its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.comparison.folder import ComparisonFolder, Plan, PlanContent, file_name
from coterie.errors import CoterieError, did_you_mean
from coterie.files import write_json
from coterie.methods import TABLE, find_method
from coterie.methods.options import check_options, option_fields
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.recipe import differing_keys, require_no_code
from coterie.run_folder import read_json
from coterie.run_schema import checked

if TYPE_CHECKING:
    from coterie.methods.method import Method

RecipeSource = str | Path | Recipe | Mapping[str, Any]


def _require_kinds(recipes: Any, methods: Any, overrides: Any) -> None:
    """Lists of what they hold: a text would be taken letter by letter."""
    for name, value in (("methods", methods or ()), ("overrides", overrides)):
        if isinstance(value, str) or not all(isinstance(each, str) for each in value):
            raise CoterieError(f"{name}={value!r}: expected a list of texts, such as ['baseline', 'okdmde']")
    sources = (
        list(recipes.values()) if isinstance(recipes, Mapping) else [recipes] if isinstance(recipes, str) else recipes
    )
    for each in sources:
        if not isinstance(each, (str, Path, Mapping, Recipe)):
            raise CoterieError(f"a recipe is {type(each).__name__}: expected a file, a mapping or a Recipe")


def build_arms(
    recipes: Sequence[RecipeSource] | Mapping[str, RecipeSource],
    methods: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    trust_code: bool = False,
) -> dict[str, Recipe]:
    """The arms of recipes and methods, each checked as far as it can be without data.

    A recipe's ``method.*`` settings belong to its own method; where another one takes its place, they are dropped and that one has
    its defaults. The recipe's students and split point hold for all, except for methods that train one network (the baseline); its
    teachers go to the methods that are made of teachers: beside another one (a baseline, a group) they would make it something else.

    Args:
        recipes: files, mappings or recipes; or a mapping from labels to them. None at all: the defaults (the digits demo).
        methods: names that each recipe is run with; None: its own.
        overrides: ``key=value`` for all arms; ``method.x=value`` must hold for every method.
        trust_code: whether the files may name methods by ``package.module:Class``.

    Returns:
        Label -> recipe: the method's name, with several recipes ``<recipe>:<method>``, or the mapping's labels.

    Raises:
        CoterieError: an unknown method or setting, or two arms of one label.
    """
    _require_kinds(recipes, methods, overrides)
    for method in methods or ():
        if ":" not in method and method not in TABLE:
            find_method(method)  # says so; names first, since finding the others imports torch
    _refuse_what_the_comparison_sets(overrides, bool(methods))
    named = _named(recipes)
    of_method = [each for each in overrides if each.partition("=")[0].partition(".")[0] == "method"]
    of_others = [each for each in overrides if each not in of_method]
    arms: dict[str, Recipe] = {}
    for name, source in named.items():
        if methods:
            common = load_recipe(source, of_others, trust_code=True)  # the methods are the caller's own word
            found = {method: load_recipe(_with_method(common, method), of_method) for method in methods}
        else:
            own = load_recipe(source, overrides, trust_code=trust_code)
            found = {own.method.name: own}
        if len(found) < len(methods or found):
            raise CoterieError(f"a method is named twice in {', '.join(methods or ())}; name each once")
        for method, recipe in found.items():
            _check(recipe)
            is_labelled = isinstance(recipes, Mapping) and not methods
            arms[name if is_labelled else f"{name}:{method}" if len(named) > 1 else method] = recipe
    _require_folders_apart(arms)
    return arms


def sweep_arms(arms: dict[str, Recipe], sweep: Mapping[str, Sequence[str]]) -> dict[str, Recipe]:
    """The arms of a grid of settings: every arm with every combination of values, on the validation split alone.

    Args:
        arms: label -> recipe.
        sweep: settings by their full names, each with the values that are tried. A method's setting goes to the methods that have it; the
            others stay one arm.

    Returns:
        Label -> recipe, the label with the values behind it; no run measures the test split.

    Raises:
        CoterieError: an unknown setting or a wrong value.
    """
    found: dict[str, Recipe] = {}
    untouched = ["training.evaluate_test=false"]
    used: set[str] = set()
    for label, recipe in arms.items():
        own = {key: values for key, values in sweep.items() if _has_setting(recipe, key)}
        used |= own.keys()
        for values in product(*own.values()):
            given = [f"{key}={value}" for key, value in zip(own, values, strict=True)]
            said = " ".join(each.partition(".")[2] or each for each in given)
            swept = load_recipe(recipe, [*given, *untouched])
            check_options(find_method(swept.method.name), swept.method.options)
            _check(swept)
            found[f"{label} {said}".strip()] = swept
    for key in sweep.keys() - used:  # no method has it; the error tells what there is
        first = find_method(next(iter(arms.values())).method.name)
        check_options(first, {key.partition(".")[2]: sweep[key][0]})
    _require_folders_apart(found)
    return found


def _has_setting(recipe: Recipe, key: str) -> bool:
    """Whether a method's setting is this recipe's; other settings are everybody's."""
    section, _, name = key.partition(".")
    return section != "method" or name in option_fields(find_method(recipe.method.name))


def _refuse_what_the_comparison_sets(overrides: Sequence[str], has_methods: bool) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key == "seed":
            raise CoterieError(f"{override!r}: a comparison's seeds are chosen by --seeds (seeds=[3, 5] in Python)")
        if has_methods and key in {"method", "method.name"}:
            raise CoterieError(f"{override!r}: the methods are chosen by --methods already; leave one of them out")


def _with_method(recipe: Recipe, method: str) -> dict[str, Any]:
    """The recipe's settings with another method in place of its own."""
    tree = recipe.model_dump()
    if method != recipe.method.name:
        tree["method"] = {"name": method}
        kind = find_method(method)
        if _too_many(kind, recipe.network.branches):
            tree["network"] = recipe.network.of_one().model_dump()
        if not (kind.needs_teacher or kind.takes_teachers):
            del tree["teacher"], tree["teachers"], tree["teaching"]
    return tree


def _too_many(method: type[Method], students: int | None) -> bool:
    return students is not None and method.max_students is not None and students > method.max_students


def _check(recipe: Recipe) -> None:
    """What a run would refuse before it reads its data is refused once, for all runs of an arm."""
    from coterie.tasks.task import find_task

    find_task(recipe).require(recipe)


def _require_folders_apart(labels: Iterable[str]) -> None:
    """Refuse labels whose runs would share a folder; some disks take A and a for the same name."""
    by_file: dict[str, str] = {}
    for label in labels:
        other = by_file.setdefault(file_name(label).casefold(), label)
        if other != label:
            raise CoterieError(f"the labels {other!r} and {label!r} give the same folder name; use letters and digits")


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


def make_plan(arms: dict[str, Recipe], seeds: int | Sequence[int]) -> Plan:
    """A plan of these arms; ``seeds`` is a number of seeds from 0, or the seeds themselves.

    The reference is the first arm whose method is the baseline, else the first arm.

    Raises:
        CoterieError: no seeds, a repeated one, or no arms.
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
    """Figures of one task mean nothing beside those of another.

    Raises:
        CoterieError: the arms are of several.
    """
    tasks = sorted({recipe.task for recipe in arms.values()})
    if len(tasks) > 1:
        raise CoterieError(f"the arms are of several tasks, {', '.join(tasks)}: compare those of one")


def with_reference(plan: Plan, reference: str) -> Plan:
    """The plan with another reference.

    Raises:
        CoterieError: it is no arm.
    """
    if reference not in plan.arms:
        raise CoterieError(
            f"the reference {reference!r} is no arm{did_you_mean(reference, plan.arms)}; arms are {', '.join(plan.arms)}"
        )
    return replace(plan, reference=reference)


def require_place(folder: ComparisonFolder, plan: Plan, reference: str | None = None) -> None:
    """What a new comparison needs, before anything is written.

    Raises:
        CoterieError: a reference that is no arm, or a folder with something else in it.
    """
    if folder.is_comparison:
        return
    if reference is not None:
        with_reference(plan, reference)
    if folder.path.is_dir() and any(path.name[:1] != "." for path in folder.path.iterdir()):
        raise CoterieError(f"{str(folder.path)!r} is not empty and holds no comparison; choose another --output")


def keep_plan(folder: ComparisonFolder, plan: Plan, reference: str | None = None, *, trust_code: bool = False) -> Plan:
    """Write the plan; where there is one, extend it by further arms and seeds. The folder's lock is held by the caller.

    Args:
        reference: label of an arm; None: the stored plan's, in a new folder the plan's own.
        trust_code: whether the stored plan may name methods by ``package.module:Class`` that this one does not have.

    Raises:
        CoterieError: an arm that has begun with other settings, a reference that is no arm, or a folder with something else in it.
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
    """Refuse arms of a stored plan that would import code, except where leave is given or the call itself names them.

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
    _require_folders_apart(arms)
    seeds = (*stored.seeds, *(seed for seed in plan.seeds if seed not in stored.seeds))
    return Plan(arms, seeds, stored.reference)


def _without_seed(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key != "seed"}


def read_plan(folder: ComparisonFolder) -> Plan:
    """The plan of a comparison. This imports no method; before one is trained, see :func:`require_trust`.

    Raises:
        CoterieError: there is none, or it is damaged.
    """
    if not folder.is_comparison:
        raise CoterieError(f"{str(folder.path)!r} is not a comparison: expected a folder with plan.json")
    stored = checked(PlanContent, read_json(folder.plan), folder.plan)
    try:
        arms = {label: load_recipe(tree) for label, tree in stored.arms.items()}
        return with_reference(make_plan(arms, stored.seeds), stored.reference)
    except CoterieError as error:
        raise CoterieError(f"{str(folder.plan)!r} is damaged: {error}") from None
