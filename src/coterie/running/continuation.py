"""Resuming a run: recipe and data must match those it was started with. Paths of the data and the device may change."""

from __future__ import annotations

from typing import Any

from coterie.data.fingerprint import differences
from coterie.errors import CoterieError
from coterie.recipe import Recipe, load_recipe
from coterie.recipe.recipe import differing_keys
from coterie.recipe.sections import resolved
from coterie.run_folder import RunFolder
from coterie.training.checkpoint import load_checkpoint

OWN_NETWORK = "own network"  # in place of its name
SHOWN = 8  # settings that a message names


def free_on_resume(recipe: Recipe) -> set[str]:
    """Returns the settings that may change when a run is resumed; data under another name or path are compared by fingerprint."""
    return {"training.device", *recipe.without_effect, *(f"data.{key}" for key in recipe.data.places)}


def continued(settings: Recipe, stored: Recipe, folder: RunFolder) -> Recipe:
    """Returns the recipe to resume with: ``auto`` settings keep their resolved values. More epochs start a new learning-rate schedule.

    Raises:
        CoterieError: a setting that affects results differs (the message names it), or epochs cannot be added.
    """
    settings = load_recipe(settings, _resolved(settings, stored))
    if not settings.schedule.restarts:
        settings = _with_restarts(settings, stored.schedule.restarts)
    different = [key for key in differing_keys(settings, stored) if key not in free_on_resume(stored)]
    if different == ["training.epochs"]:
        return _lengthened(settings, stored, folder)
    if different:
        raise CoterieError(
            f"cannot resume {str(folder)!r} with another recipe: {', '.join(different[:SHOWN])} differ{'s' if len(different) == 1 else ''}"
            f"{' and more' if len(different) > SHOWN else ''}"
        )
    return settings


def _with_restarts(recipe: Recipe, restarts: list[int]) -> Recipe:
    return recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"restarts": restarts})})


def _lengthened(settings: Recipe, stored: Recipe, folder: RunFolder) -> Recipe:
    """Returns the recipe of a finished run that is trained for more epochs, starting with a restart of its schedule."""
    asked, planned = resolved(settings.training.epochs), resolved(stored.training.epochs)
    position = load_checkpoint(folder.last).get("position", {}) if folder.last.is_file() else {}
    done = position.get("epoch", 0)
    if asked <= done:
        raise CoterieError(f"training.epochs={asked}: the run {str(folder)!r} has trained {done}; expected more")
    if done < planned and folder.read_summary().get("status") != "finished":
        raise CoterieError(
            f"training.epochs={asked}: the run {str(folder)!r} has trained {done} of its {planned} epochs; "
            "epochs are added once it has come to its end: leave training.epochs out"
        )
    longer = _with_restarts(settings, [*stored.schedule.restarts, done])
    return load_recipe(longer.model_dump(mode="json"), trust_code=True)  # checked again: a warm-up must fit


def with_stored_places(stored: Recipe, given: Recipe) -> Recipe:
    """Returns the stored recipe with the data paths, device, trackers and method of another, so that no method named in a file is imported."""
    data = given.data.located() | {key: getattr(given.data, key) for key in given.data.without_effect}
    training = {"device": given.training.device, "trackers": given.training.trackers}
    return stored.model_copy(
        update={
            "data": stored.data.model_copy(update=data),
            "method": given.method,
            "training": stored.training.model_copy(update=training),
        }
    )


def require_same_objects(folder: RunFolder, own_network: bool, own_teachers: int) -> None:
    """Checks that a run is resumed with custom modules exactly if it was started with them.

    Args:
        folder: the run folder.
        own_network: whether a network is passed.
        own_teachers: number of teacher modules that are passed.

    Raises:
        CoterieError: the run was started differently.
    """
    summary = folder.read_summary()
    if "network" not in summary:  # the process was killed before it wrote anything
        return
    if (summary["network"] == OWN_NETWORK) != own_network:
        was = "on a network of your own: pass it" if not own_network else f"on {summary['network']}: leave it out"
        raise CoterieError(f"the run {str(folder)!r} was trained {was}, coterie.train(resume=True, network=...)")
    if summary.get("own_teachers", own_teachers) != own_teachers:
        raise CoterieError(
            f"the run {str(folder)!r} was taught by {summary['own_teachers']} module(s) of your own, and {own_teachers} are passed: "
            "coterie.train(resume=True, teacher=...)"
        )


def _resolved(settings: Recipe, stored: Recipe) -> list[str]:
    """Returns overrides that replace every ``auto`` with its value in the stored recipe."""
    import yaml

    given, kept = settings.model_dump(mode="json"), stored.model_dump(mode="json")
    return [
        f"{section}.{key}={yaml.safe_dump(kept[section][key], default_flow_style=True).split(chr(10))[0]}"
        for section, values in given.items()
        if isinstance(values, dict) and isinstance(kept.get(section), dict)
        for key, value in values.items()
        if value == "auto" and kept[section].get(key, "auto") != "auto"
    ]


def require_same_data(folder: RunFolder, found: dict[str, Any]) -> str | None:
    """Compare data with those that a run was started with.

    Returns:
        A note if the run was started by an older version, which did not record its data; otherwise None.

    Raises:
        CoterieError: the data differ; the message says how.
    """
    if not folder.data.is_file() and not folder.last.is_file():  # killed before there was a checkpoint to resume from
        return None
    if not folder.data.is_file():
        return "this run does not record its data (it was started by an older version): they cannot be compared"
    different = differences(folder.read_data(), found)
    if different:
        raise CoterieError(f"cannot resume {str(folder)!r} with other data: {'; '.join(different)}")
    return None


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Returns the recipe with absolute paths of data, networks and teachers' runs."""
    changed: dict[str, Any] = {"data": recipe.data.absolute(), "network": recipe.network.absolute()}
    changed["teacher"] = recipe.teacher and recipe.teacher.absolute()
    changed["teachers"] = [each.absolute() for each in recipe.teachers]
    return recipe.model_copy(update=changed)
