"""Recipes: the settings of a run, read from YAML, ``key=value`` overrides and keywords."""

from coterie.recipe.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
