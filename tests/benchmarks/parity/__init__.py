"""Recorded outputs of the official codes, and ours: `python -m tests.benchmarks.parity`."""
