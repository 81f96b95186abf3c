"""Where a run goes: a folder that is new or empty, and that is as it was where bad input is found late."""

from __future__ import annotations

import shutil
from pathlib import Path

from coterie.errors import CoterieError
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe
from coterie.recipe.sections import AUTO
from coterie.run_folder import RunFolder
from coterie.run_lock import is_leftover


def free_name(recipe: Recipe, network: NetworkSource | None, datasets: object) -> Path:
    """A new folder in ``runs/`` that says what is trained, numbered where that is taken; no network where the data choose it."""
    data = "own-data" if datasets is not None else Path(recipe.data.name).name or "data"
    name = recipe.network.name
    names = [
        Path(each).name if Path(each).is_dir() else each
        for each in (name if isinstance(name, list) else [name or "tiny_cifar"])
    ]
    net = "own-network" if network else "-".join(names)
    chosen = network is None and name == AUTO  # by the data, which are not read yet: the folder does not name it
    parts = [data, *([] if chosen else [net]), recipe.method.name.rpartition(":")[2], f"seed{recipe.seed}"]
    base = "_".join(parts).replace("/", "-")
    candidates = (Path("runs") / (base if number == 1 else f"{base}-{number}") for number in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def require_free(folder: RunFolder) -> None:
    """The folder must be new or empty, and it must be possible to write there."""
    path = folder.path
    if path.is_dir() and not all(is_leftover(entry) for entry in path.iterdir()):
        what = "holds another run; go on with it by --resume, or" if folder.is_run else "is not empty;"
        raise CoterieError(f"{str(path)!r} {what} choose another --output")
    made = [parent for parent in [path, *path.parents] if not parent.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CoterieError(f"cannot write to {str(path)!r}: {error.strerror}") from None
    finally:  # bad input found later must leave nothing behind
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def clear(path: Path, made: list[Path]) -> None:
    """Remove what a run has written to its folder, and the folders that it made, from the lowest on."""
    for entry in path.iterdir() if path.is_dir() else ():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
    for folder in made:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
