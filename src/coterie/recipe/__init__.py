"""What a run is: its settings, read from YAML, from ``key=value`` and from keywords."""

from coterie.recipe.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
