"""Pictures of what a network sees: pure functions of arrays, and a run's fixed probe images."""
