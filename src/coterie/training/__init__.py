"""Training: the loop, optimizers, schedules and checkpoints."""
