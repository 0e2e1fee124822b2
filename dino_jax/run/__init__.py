"""One run's life: what it prints, writes, judges, and how it ends."""
