"""A run from recipe to run folder: train, resume, evaluate again, and describe the result."""
