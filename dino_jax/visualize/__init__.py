"""Pictures of what a network sees: pure functions of arrays, and the fixed probes of a run."""
