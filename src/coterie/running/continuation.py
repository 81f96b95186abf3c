"""Going on with a run: its recipe and its data must be what it was started with; where they lie, and on which device, may change."""

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
    """Settings that may change when a run goes on; data of another name or place are compared by their fingerprint."""
    return {"training.device", *recipe.without_effect, *(f"data.{key}" for key in recipe.data.places)}


def continued(settings: Recipe, stored: Recipe, folder: RunFolder) -> Recipe:
    """The recipe to go on with: what ``auto`` came to when the run was started stays. More epochs start the learning rate anew.

    Raises:
        CoterieError: a setting that would change what comes out, by name; or epochs that cannot be added.
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
    """The recipe of a run that has come to its end and is trained for more epochs, from a restart of its schedule on."""
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
    """The stored recipe with the place of the data, the device and the method of another: no file's method is imported."""
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
    """A run on networks of one's own goes on with them, and no other one does.

    Args:
        folder: of the run.
        own_network: whether a network is passed.
        own_teachers: teachers that are passed.

    Raises:
        CoterieError: the run was started otherwise.
    """
    summary = folder.read_summary()
    if "network" not in summary:  # a kill came before anything was written
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
    """Overrides that replace every ``auto`` by what it was resolved to in the stored recipe."""
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
    """Compare data with what a run was started with.

    Returns:
        A note where the run, of an older version, does not record its data.

    Raises:
        CoterieError: they differ, and in what.
    """
    if not folder.data.is_file() and not folder.last.is_file():  # a kill came before there was anything to go on from
        return None
    if not folder.data.is_file():
        return "this run does not record its data (it was started by an older version): they cannot be compared"
    different = differences(folder.read_data(), found)
    if different:
        raise CoterieError(f"cannot resume {str(folder)!r} with other data: {'; '.join(different)}")
    return None


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the paths of data, networks and teachers' runs as they are from any working directory."""
    changed: dict[str, Any] = {"data": recipe.data.absolute(), "network": recipe.network.absolute()}
    changed["teacher"] = recipe.teacher and recipe.teacher.absolute()
    changed["teachers"] = [each.absolute() for each in recipe.teachers]
    return recipe.model_copy(update=changed)
