"""Data sets by name, folder or Hub id, and the loaders of a run. Order and augmentation are pure functions.

No heavy imports here, so that reading the table of names in ``catalogue`` is fast.
"""
