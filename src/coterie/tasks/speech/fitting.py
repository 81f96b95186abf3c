"""Automatic settings of a speech run, chosen by its data and networks."""

from __future__ import annotations

import numpy as np

from coterie.recipe import Recipe
from coterie.recipe.fitting import Facts, fit, with_settings
from coterie.recipe.sections import AUTO
from coterie.tasks.speech.data.clips import Clips
from coterie.tasks.speech.settings import data_of, network_of
from coterie.tasks.speech.students import Start

BATCH_SECONDS = 24 * 15.6  # DistilHuBERT's
CLIPS = (4, 32)  # smallest and largest batch


def fit_speech(recipe: Recipe, clips: Clips, start: Start) -> tuple[Recipe, dict[str, str]]:
    """Replace each ``auto`` that depends on clips or networks; return the recipe, and the reason for each choice.

    Args:
        recipe: the recipe; values that it sets are kept.
        clips: the training clips.
        start: initialisation of the student.
    """
    chosen: dict[str, object] = {}
    reasons: dict[str, str] = {}
    data, network = data_of(recipe), network_of(recipe)

    def choose(key: str, asked: object, value: object, reason: str) -> None:
        if asked == AUTO:
            chosen[key], reasons[key] = value, reason

    choose(
        "network.pretrained",
        network.pretrained,
        bool(start.source),
        "its own weights" if start.source else "it has none",
    )
    after = "after the first teacher" if network.name in (None, AUTO) else "its own configuration"
    choose("network.layers", network.layers, start.values["num_hidden_layers"], after)
    choose("network.initialize", network.initialize, start.initialize, after)
    choose("network.normalize", network.normalize, start.normalize, "its feature extractor, or the first teacher's")
    seconds = float(np.minimum(clips.lengths / data.sample_rate, data.max_seconds).mean())
    batch = max(CLIPS[0], min(CLIPS[1], int(BATCH_SECONDS / seconds)))
    choose("training.batch_size", recipe.training.batch_size, min(batch, len(clips)), f"clips of {seconds:.1f} s")
    trained = bool(start.source) or start.initialize != "fresh"
    fitted, others = fit(with_settings(recipe, chosen), Facts("speech encoder", trained, len(clips)))
    return fitted, reasons | others
