"""Training: the loop, optimizers, schedules, checkpoints and distribution. It knows a task only by its protocol."""
