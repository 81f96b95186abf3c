"""Builds the method around a student, and checks settings that do not fit together."""

from __future__ import annotations

from typing import Any

from torch import nn

from coterie.errors import CoterieError
from coterie.methods import TABLE, find_method
from coterie.methods.method import Method
from coterie.methods.options import check_options
from coterie.methods.retrieval.dual_encoder import DualEncoderMethod
from coterie.methods.teacher.taught import teacher_wanted
from coterie.randomness import derive_seed, seeded
from coterie.recipe import Recipe
from coterie.recipe.sections import TeachingRecipe
from coterie.tasks.retrieval.cross.teacher import CrossTeacher
from coterie.tasks.retrieval.encoders import width_of
from coterie.tasks.retrieval.settings import data_of, network_of
from coterie.tasks.retrieval.sources import AnyTeacher
from coterie.tasks.retrieval.tower import Tower


def teacher_encodes(recipe: Recipe, has_teacher: bool) -> bool:
    """Return whether the teacher encodes the documents."""
    who = network_of(recipe).documents
    return has_teacher if who == "auto" else who == "teacher"


def require_teacher(recipe: Recipe) -> None:
    """Check that there is a teacher if one is needed.

    Raises:
        CoterieError: there is none, or the method is not of this task.
    """
    make_method_class(recipe.method.name)
    if recipe.all_teachers():
        return
    if network_of(recipe).documents == "teacher":
        raise CoterieError("network.documents=teacher: there is no teacher; set teacher.run or teacher.network")
    if _probe(recipe).reads_teacher:
        raise CoterieError(f"{teacher_wanted(recipe.method.name)}; from labels alone: method=contrastive")


def _probe(recipe: Recipe) -> DualEncoderMethod:
    """Build the recipe's method without an encoder, to query which inputs it reads."""
    method = make_method_class(recipe.method.name)
    return method(nn.Identity(), **check_options(method, recipe.method.options, unused="drop"))


def require_pairwise(recipe: Recipe, teacher: AnyTeacher | None) -> None:
    """Check that nothing needs the vector of a single text if the teacher is a cross-encoder.

    Raises:
        CoterieError: something does.
    """
    if not isinstance(teacher, CrossTeacher):
        return
    data, who = data_of(recipe), "the teacher is a cross-encoder"
    if network_of(recipe).documents == "teacher":
        raise CoterieError(
            f"network.documents=teacher: {who}, which has no vectors of documents that an index could hold"
        )
    if data.unlabelled is not None or data.pseudo_queries:
        what = "unlabelled" if data.unlabelled is not None else "pseudo_queries"
        raise CoterieError(f"data.{what}: {who}, which says nothing of a query without its document")
    if data.max_negatives != type(data).model_fields["max_negatives"].default:
        raise CoterieError(
            f"data.max_negatives={data.max_negatives}: {who}; teacher.candidates says how many documents it scores"
        )
    if teacher.note["width"] is None and _probe(recipe).matches_vectors:
        raise CoterieError(
            f"method.embedding: {who}, which gives scores and no vectors; set method.embedding=0, or teacher.pooling=mean for vectors of both sides"
        )


def make_method_class(name: str) -> type[DualEncoderMethod]:
    """Return the class of a method.

    Raises:
        CoterieError: the method is of another task.
    """
    found = find_method(name)
    if not issubclass(found, DualEncoderMethod):
        own = ", ".join(each for each, entry in TABLE.items() if entry.kind == "dual encoder")
        raise CoterieError(f"method={name} trains no dual encoder; task=retrieval takes {own}")
    return found


def make_method(recipe: Recipe, encoder: Any, teacher: AnyTeacher | None = None) -> Method:
    """Build the recipe's method around an encoder, which it owns afterwards.

    Raises:
        CoterieError: the method is of another task, ``teaching.*`` is set, or the widths do not match.
    """
    kind = make_method_class(recipe.method.name)
    if recipe.teaching != TeachingRecipe():
        raise CoterieError(
            f"teaching.* says how a teacher joins a method that has none; {recipe.method.name} has settings of its own for it"
        )
    with seeded(derive_seed(recipe.seed, "method")):
        method = kind(Tower(encoder), **check_options(kind, recipe.method.options, unused="drop"))
    width = None if teacher is None else teacher.note["width"]
    if width is not None and width_of(encoder) != width:
        what = "its documents are compared with" if teacher_encodes(recipe, True) else "vectors are matched with"
        if teacher_encodes(recipe, True) or method.matches_vectors:
            raise CoterieError(
                f"the student's vectors have {width_of(encoder)} numbers, the teacher's, which {what}, {width}: leave network.projection=false out"
            )
    return method
