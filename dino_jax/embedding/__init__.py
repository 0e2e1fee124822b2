"""Vectors for the images of a data set, for search and clustering."""
