"""The output folder of a run: it must be new or empty, and is restored to that if invalid input is found late."""

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
    """Returns an unused path in ``runs/`` named after what is trained, with a number if the name is taken; without the network if it depends on the data."""
    data = "own-data" if datasets is not None else Path(recipe.data.name).name or "data"
    name = recipe.network.name
    names = [
        Path(each).name if Path(each).is_dir() else each
        for each in (name if isinstance(name, list) else [name or "tiny_cifar"])
    ]
    net = "own-network" if network else "-".join(names)
    chosen = network is None and name == AUTO  # chosen by the data, which are not read yet
    parts = [data, *([] if chosen else [net]), recipe.method.name.rpartition(":")[2], f"seed{recipe.seed}"]
    base = "_".join(parts).replace("/", "-")
    candidates = (Path("runs") / (base if number == 1 else f"{base}-{number}") for number in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def require_free(folder: RunFolder) -> None:
    """Checks that the folder is new or empty, and writable."""
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
    finally:  # leave no folders behind in case invalid input is found later
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def clear(path: Path, made: list[Path]) -> None:
    """Remove what a run has written to its folder, and the folders that it created, innermost first."""
    for entry in path.iterdir() if path.is_dir() else ():
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
    for folder in made:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
