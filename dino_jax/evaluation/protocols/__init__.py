"""The evaluations of the papers, one file each with `evaluate`; `..options` has their options."""
