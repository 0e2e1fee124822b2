"""Continuing a model on unlabelled photos: a better one is handed out, or none."""
