"""The published recipes, which the installed package includes."""

from __future__ import annotations

from pathlib import Path

from coterie.errors import CoterieError, did_you_mean

PLACES = (Path(__file__).parents[1] / "recipes", Path(__file__).parents[3] / "recipes")  # in a wheel; in the repository


def published_recipes() -> dict[str, Path]:
    """Returns the published recipes as name to file, sorted by name; empty if the installation lacks them."""
    folder = next((place for place in PLACES if any(place.glob("*.yaml"))), PLACES[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Finds a published recipe by name, with or without ``recipes/`` and ``.yaml``.

    Raises:
        CoterieError: there is no published recipe of this name.
    """
    known = published_recipes()
    path = Path(name)
    if path.suffix in {"", ".yaml"} and path.parent in {Path(), Path("recipes")} and path.stem in known:
        return known[path.stem]
    if path.suffix.lower() in {".yaml", ".yml"}:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.y*ml")] + list(known))
        raise CoterieError(f"cannot read the recipe {name!r}: No such file or directory{near}")
    near = did_you_mean(name, [other.name for other in Path().iterdir() if other.is_dir()] + list(known))
    raise CoterieError(f"there is no folder, recipe file or published recipe {name!r}{near}")
