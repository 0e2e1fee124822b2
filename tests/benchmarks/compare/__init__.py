"""Methods at equal budget: `python -m tests.benchmarks.compare`."""
