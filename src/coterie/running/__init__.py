"""A run from recipe to run folder: train, resume, evaluate again, what came of it."""
