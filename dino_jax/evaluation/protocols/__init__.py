"""The evaluations of the papers, one file each, with `add_arguments` and `evaluate`."""
