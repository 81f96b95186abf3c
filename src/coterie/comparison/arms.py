"""Builds the arms of a comparison: labelled recipes, from recipes, methods and the values of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coterie.comparison.plan import require_folders_apart
from coterie.errors import CoterieError
from coterie.methods import TABLE, find_method
from coterie.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from coterie.methods.method import Method

RecipeSource = str | Path | Recipe | Mapping[str, Any]


def _require_kinds(recipes: Any, methods: Any, overrides: Any) -> None:
    """Checks the types of the arguments: a string in place of a list would be iterated by letter."""
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
    """Builds the arms from recipes and methods, and checks each as far as possible without data.

    A recipe's ``method.*`` settings belong to its own method. If another method replaces it, they are dropped, and the other method uses
    its defaults unless ``NAME.x=value`` sets them. All methods use the recipe's number of students and split point, except methods that train one network (the
    baseline). The recipe's teachers are passed only to methods that use teachers: they would change any other method (a baseline, a group).

    Args:
        recipes: files, mappings or recipes; or a mapping from labels to them. Empty: the defaults (the digits demo).
        methods: names of the methods that each recipe is run with; None: its own.
        overrides: ``key=value`` for all arms; ``method.x=value`` must be a setting of every method, ``NAME.x=value`` applies to the method of that name only.
        trust_code: whether the files may name methods by ``package.module:Class``.

    Returns:
        Label -> recipe. The label is the method's name, with several recipes ``<recipe>:<method>``, or the mapping's label.

    Raises:
        CoterieError: a method or setting is unknown, or two arms have the same label.
    """
    _require_kinds(recipes, methods, overrides)
    for method in methods or ():
        if ":" not in method and method not in TABLE:
            find_method(method)  # raises; unknown names first, because finding known methods imports torch
    _refuse_what_the_comparison_sets(overrides, bool(methods))
    named = _named(recipes)
    of_one = {method: [f"method.{each.removeprefix(f'{method}.')}" for each in overrides if each.startswith(f"{method}.")] for method in methods or ()}  # fmt: skip
    overrides = [each for each in overrides if each.partition(".")[0] not in of_one]
    of_method = [each for each in overrides if each.partition("=")[0].partition(".")[0] == "method"]
    of_others = [each for each in overrides if each not in of_method]
    _require_settings_of_all(of_method, methods or ())
    arms: dict[str, Recipe] = {}
    for name, source in named.items():
        if methods:
            common = load_recipe(source, of_others, trust_code=True)  # the caller names the methods
            found = {
                method: load_recipe(_with_method(common, method), [*of_method, *of_one[method]]) for method in methods
            }
        else:
            own = load_recipe(source, overrides, trust_code=trust_code)
            found = {own.method.name: own}
        if len(found) < len(methods or found):
            raise CoterieError(f"a method is named twice in {', '.join(methods or ())}; name each once")
        for method, recipe in found.items():
            _check(recipe)
            is_labelled = isinstance(recipes, Mapping) and not methods
            arms[name if is_labelled else f"{name}:{method}" if len(named) > 1 else method] = recipe
    require_folders_apart(arms)
    return arms


def sweep_arms(arms: dict[str, Recipe], sweep: Mapping[str, Sequence[str]]) -> dict[str, Recipe]:
    """Builds the arms of a grid of settings: every arm with every combination of values, evaluated on the validation split only.

    Args:
        arms: label -> recipe.
        sweep: settings by full name, each with the values to try. A method's setting applies to the methods that have it; the
            others stay one arm. Settings of a recipe that have no effect with a value are left out of that arm.

    Returns:
        Label -> recipe, with the values appended to the label; no run evaluates the test split.

    Raises:
        CoterieError: a setting is unknown, a value is invalid, or one has no effect together with the others, so that two arms would be the same.
    """
    from coterie.methods.options import check_options  # imports torch
    from coterie.tasks.construction import without_unused

    found: dict[str, Recipe] = {}
    untouched = ["training.evaluate_test=false"]
    used: set[str] = set()
    for label, recipe in arms.items():
        own = {key: values for key, values in sweep.items() if _has_setting(recipe, key)}
        used |= own.keys()
        for values in product(*own.values()):
            given = [f"{key}={value}" for key, value in zip(own, values, strict=True)]
            said = " ".join(each.partition(".")[2] or each for each in given)
            names = [key.partition(".")[2] for key in own if key.startswith("method.")]
            # An arm's other settings may have no effect with one of the values, as a temperature with a weight of 0.
            swept = without_unused(load_recipe(recipe, [*given, *untouched]), keep=names)
            check_options(find_method(swept.method.name), swept.method.options)
            _check(swept)
            found[f"{label} {said}".strip()] = swept
    for key in sweep.keys() - used:  # no method has it; raises an error that lists the known settings
        first = find_method(next(iter(arms.values())).method.name)
        check_options(first, {key.partition(".")[2]: sweep[key][0]})
    require_folders_apart(found)
    return found


def _has_setting(recipe: Recipe, key: str) -> bool:
    """Whether a recipe has a setting; all have those that do not belong to a method."""
    from coterie.methods.options import option_fields

    section, _, name = key.partition(".")
    return section != "method" or name in option_fields(find_method(recipe.method.name))


def _refuse_what_the_comparison_sets(overrides: Sequence[str], has_methods: bool) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key == "seed":
            raise CoterieError(f"{override!r}: a comparison's seeds are chosen by --seeds (seeds=[3, 5] in Python)")
        if has_methods and key in {"method", "method.name"}:
            raise CoterieError(f"{override!r}: the methods are chosen by --methods already; leave one of them out")


def _require_settings_of_all(overrides: Sequence[str], methods: Sequence[str]) -> None:
    """Refuse ``method.x`` settings that only some of the methods have.

    Raises:
        CoterieError: there is one; the message says how to set it for one method.
    """
    if not overrides or not methods:
        return
    from coterie.methods.options import option_fields

    for override in overrides:
        setting = override.partition("=")[0].partition(".")[2]
        have = [method for method in methods if setting in option_fields(find_method(method))]
        other = next((method for method in methods if method not in have), None)
        if have and other:
            own = override.partition(".")[2]
            raise CoterieError(
                f"unknown setting 'method.{setting}' of method={other}; {have[0]}.{own} sets it for {have[0]} alone"
            )


def _with_method(recipe: Recipe, method: str) -> dict[str, Any]:
    """Returns the recipe's settings with its method replaced."""
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
    """Runs the checks that a run makes before it reads its data, once for all runs of an arm."""
    from coterie.tasks.task import find_task

    find_task(recipe).require(recipe)


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
