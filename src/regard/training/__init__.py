"""Training: the loop, optimisers, schedules, checkpoints and distribution. It knows a task only by its protocol."""
