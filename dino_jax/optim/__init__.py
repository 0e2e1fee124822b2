"""Code that knows the parameter tree: optimizers, their rules by tensor, schedules."""
