"""Memory, time and communication of a run on TPU slices, computed without a TPU."""
