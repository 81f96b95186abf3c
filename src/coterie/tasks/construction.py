"""What all tasks build alike: a recipe's method for students that are there, and the order of a teacher's classes."""

from __future__ import annotations

import inspect

from torch import nn

from coterie.errors import CoterieError
from coterie.methods import create_method, find_method
from coterie.methods.group_method import GroupMethod, grouped
from coterie.methods.teacher.guide import Guide
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import TeachingRecipe


def method_of(
    recipe: Recipe, group: StudentGroup, label_loss: nn.Module | None = None, teachers: Teachers | None = None
) -> GroupMethod:
    """The recipe's method for students that are there, of whatever task.

    Args:
        recipe: whose ``method``, ``teaching`` and ``seed`` are read.
        group: the students.
        label_loss: see :class:`coterie.methods.method.Method`.
        teachers: passed to a method that takes some; they join any other.

    Raises:
        CoterieError: settings that the method does not take, ``teaching.*`` without a teacher that joins.
    """
    method_class = find_method(recipe.method.name)
    group.checkpoint_branches = recipe.training.checkpoint_branches
    with seeded(derive_seed(recipe.seed, "method")):
        passed = {"teachers": teachers} if "teachers" in inspect.signature(method_class).parameters else {}
        method = grouped(
            create_method(recipe.method.name, group, label_loss=label_loss, **passed, **recipe.method.options)
        )
    if teachers is not None and not passed:
        method.join(Guide(teachers, **recipe.teaching.model_dump()))
    elif recipe.teaching != TeachingRecipe():
        raise CoterieError(
            f"teaching.* says how a teacher joins a method; {recipe.method.name} {'has settings of its own for it' if passed else 'has no teacher here'}"
        )
    return method


def class_order(teacher: str, names: list[str], expected: list[str]) -> list[int] | None:
    """Which of the teacher's logits belongs to each of the data's classes; None where they are in the same order.

    Raises:
        CoterieError: they are not the same classes.
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
