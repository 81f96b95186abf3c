"""Data sets by name, folder or Hub id, and the loaders that feed a run. Order and augmentation are pure functions.

Nothing heavy is imported here, so that the table of names in ``catalogue`` costs nothing.
"""
