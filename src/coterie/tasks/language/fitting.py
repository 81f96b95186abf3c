"""Automatic settings of a language modeling run, chosen by its data and networks."""

from __future__ import annotations

from coterie.methods import find_method
from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, Family, fit, with_settings
from coterie.recipe.sections import AUTO
from coterie.tasks.language.settings import data_of, network_of
from coterie.tasks.language.sources import has_own_weights, student_names

# Largest number of logits per step if the batch size is automatic.
LOGITS = 2**28  # 1 GiB in float32, and a loss keeps several such tensors
POSITIONS = 2**13  # limit with chunked logits, whose memory does not grow with the batch; that of the network does
ROWS = (8, 32)  # smallest and largest batch
STEPS = 200  # steps that an epoch should have: small data sets are trained in more and smaller steps


def fit_language(recipe: Recipe, samples: int, vocabulary: int) -> tuple[Recipe, dict[str, str]]:
    """Replace each ``auto`` that depends on texts or networks; return the recipe, and the reason for each choice.

    Args:
        recipe: the recipe; values that it sets are kept.
        samples: number of training rows.
        vocabulary: number of tokens.
    """
    settings: dict[str, object] = {}
    reasons: dict[str, str] = {}
    names = student_names(recipe)
    pretrained = recipe.network.pretrained
    if pretrained == AUTO:
        bare = next((name for name in names if not has_own_weights(name)), None)
        pretrained = settings["network.pretrained"] = bool(names) and bare is None
        found = (
            "the weights are there" if pretrained else f"no weights in {bare}" if bare else "a small network, untrained"
        )
        reasons["network.pretrained"] = found
    length = data_of(recipe).block_length
    if recipe.training.batch_size == AUTO:
        rows = max(ROWS[0], min(ROWS[1], samples // STEPS))
        whole = LOGITS // (length * vocabulary)
        parts = POSITIONS // length if find_method(recipe.method.name).compares_logits() else 0
        rows = max(1, min(rows, max(whole, parts), samples))
        settings["training.batch_size"] = rows
        in_parts = " in parts" if rows > whole else ""
        reasons["training.batch_size"] = f"{samples:,} rows of {length:,} tokens, logits of {vocabulary:,}{in_parts}"
    family: Family = "language model"
    if pretrained and network_of(recipe).lora.rank is not None:
        family = "language model with LoRA"
    fitted, others = fit(with_settings(recipe, settings), Facts(family, bool(pretrained), samples))
    return fitted, reasons | others
