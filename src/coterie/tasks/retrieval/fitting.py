"""Automatic settings of a retrieval run, chosen by its data and network."""

from __future__ import annotations

from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, fit, with_settings
from coterie.recipe.sections import AUTO
from coterie.tasks.retrieval.settings import network_of
from coterie.tasks.retrieval.sources import AnyTeacher, TeacherFound, cuts_teacher, starts_pretrained


def fit_retrieval(recipe: Recipe, samples: int, teacher: AnyTeacher | None) -> tuple[Recipe, dict[str, str]]:
    """Replace each ``auto`` that depends on texts or networks; return the recipe, and the reason for each choice.

    Args:
        recipe: the recipe; values that it sets are kept.
        samples: number of training pairs.
        teacher: the teacher, or None.
    """
    has_index = isinstance(teacher, TeacherFound)
    why = (
        "there is a teacher"
        if has_index
        else "there is no teacher"
        if teacher is None
        else "the teacher is a cross-encoder"
    )
    settings: dict[str, object] = {}
    reasons: dict[str, str] = {}
    pretrained = starts_pretrained(recipe)
    if recipe.network.pretrained == AUTO:
        settings["network.pretrained"] = pretrained
        found = (
            "the teacher's layers" if cuts_teacher(recipe) else "the weights are there" if pretrained else "untrained"
        )
        reasons["network.pretrained"] = found
    if network_of(recipe).documents == AUTO:
        settings["network.documents"] = "teacher" if has_index else "student"
        reasons["network.documents"] = why
    fitted, others = fit(with_settings(recipe, settings), Facts("text network", pretrained, samples))
    return fitted, reasons | others
