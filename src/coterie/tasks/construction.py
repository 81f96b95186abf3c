"""Construction shared by all tasks: building a recipe's method for given students, checks before that, and the order of a teacher's classes."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from torch import nn

from coterie.errors import CoterieError
from coterie.methods import create_method, find_method
from coterie.methods.group_method import GroupMethod, grouped
from coterie.methods.options import check_options
from coterie.methods.teacher.guide import Guide
from coterie.methods.teacher.taught import teacher_wanted
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import TeachingRecipe
from coterie.run_folder import RunFolder
from coterie.tasks import UNNAMED


def method_of(
    recipe: Recipe, group: StudentGroup, label_loss: nn.Module | None = None, teachers: Teachers | None = None
) -> GroupMethod:
    """Builds the recipe's method for given students of any task.

    Args:
        recipe: its ``method``, ``teaching``, ``seed`` and ``training.checkpoint_branches`` are read.
        group: the students.
        label_loss: see :class:`coterie.methods.method.Method`.
        teachers: passed to a method that takes teachers; added to any other method as a guide.

    Raises:
        CoterieError: the method does not take a setting, or ``teaching.*`` is set and no teacher is added.
    """
    method_class = find_method(recipe.method.name)
    group.checkpoint_branches = recipe.training.checkpoint_branches
    options = check_options(method_class, recipe.method.options, unused="drop")  # recipes of old runs may have some
    with seeded(derive_seed(recipe.seed, "method")):
        passed = {"teachers": teachers} if "teachers" in inspect.signature(method_class).parameters else {}
        method = grouped(create_method(recipe.method.name, group, label_loss=label_loss, **passed, **options))
    _require_teaching_read(recipe, teachers is not None, bool(passed))
    if teachers is not None and not passed:
        method.join(Guide(teachers, **recipe.teaching.model_dump()))
    return method


def require_method(recipe: Recipe, own_teachers: int = 0) -> None:
    """Check a recipe's method, students and teachers as far as possible without data.

    Args:
        recipe: the recipe, as it was read.
        own_teachers: number of teachers that are passed as modules.

    Raises:
        CoterieError: the method or an argument is unknown or has no effect, there are too many students, a required teacher is missing, there are too many teachers, a
            teacher is not a finished run of the recipe's task, or ``teaching.*`` is set without effect.
    """
    name, kind = recipe.method.name, find_method(recipe.method.name)
    check_options(kind, recipe.method.options)
    networks = recipe.network.name
    students = len(networks) if isinstance(networks, list) else recipe.network.branches
    if kind.max_students is not None and students is not None and students > kind.max_students:
        raise CoterieError(
            f"method={name} trains at most {kind.max_students} student(s), and the recipe names {students}; give it a recipe of its own"
        )
    teachers = recipe.all_teachers()
    count = own_teachers or len(teachers)
    if kind.needs_teacher and not count:
        raise CoterieError(teacher_wanted(name))
    if kind.max_teachers is not None and count > kind.max_teachers:
        raise CoterieError(f"{name} learns from {kind.max_teachers} teacher, and there are {count}")
    _require_teaching_read(recipe, count > 0, "teachers" in inspect.signature(kind).parameters)
    for each in teachers:
        if each.run is not None:
            found = RunFolder(each.run).require().read_description().get("task", UNNAMED)
            if found != recipe.task:
                raise CoterieError(f"the teacher {each.run!r} is a run of task={found}, and this is task={recipe.task}")


def without_unused(recipe: Recipe, keep: Collection[str] = ()) -> Recipe:
    """Returns a recipe without the method's arguments that have no effect; it trains the same.

    Args:
        recipe: the recipe, perhaps of an old run.
        keep: names of arguments that stay.

    Raises:
        CoterieError: an argument is unknown or has an invalid value.
    """
    given = recipe.method.options
    used = check_options(find_method(recipe.method.name), given, unused="drop")
    if used.keys() == given.keys():
        return recipe
    options = {key: value for key, value in given.items() if key in used or key in keep}
    method = type(recipe.method).model_validate({"name": recipe.method.name, **options})
    return recipe.model_copy(update={"method": method})


def _require_teaching_read(recipe: Recipe, is_taught: bool, has_own: bool) -> None:
    """Refuse ``teaching.*`` if no teacher is added to the method."""
    if recipe.teaching != TeachingRecipe() and (has_own or not is_taught):
        raise CoterieError(
            f"teaching.* says how a teacher joins a method; {recipe.method.name} {'has settings of its own for it' if has_own else 'has no teacher here'}"
        )


def require_no_images(recipe: Recipe) -> None:
    """Refuse methods that work with image networks only.

    Raises:
        CoterieError: the method reads stages of image networks, or mixes images.
    """
    name, kind = recipe.method.name, find_method(recipe.method.name)
    if kind.uses_taps:
        raise CoterieError(f"method={name} reads the stages of image networks, and task={recipe.task}")
    if kind.mixes_inputs:
        raise CoterieError(f"method={name} mixes images, and task={recipe.task}")


def class_order(teacher: str, names: list[str], expected: list[str]) -> list[int] | None:
    """Returns the index of the teacher's logit for each class of the data; None if the order is the same.

    Raises:
        CoterieError: teacher and data have different classes.
    """
    if list(names) == expected:
        return None
    if sorted(names) == sorted(expected) and len(set(names)) == len(names):
        return [list(names).index(name) for name in expected]
    only = sorted(set(expected) - set(names))
    raise CoterieError(
        f"the teacher {teacher!r} knows {len(names)} classes ({', '.join(map(str, names[:3]))}, ...), the data have "
        f"{len(expected)} ({', '.join(map(str, expected[:3]))}, ...); they must be the same"
        f"{f', and it does not know {only[0]!r}' if only else ''}"
    )
