"""Training: the loop, optimizers and schedules, checkpoints, and the run folder from start to end."""
