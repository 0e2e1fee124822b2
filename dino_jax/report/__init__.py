"""One offline HTML file about a run, or several; does not import jax."""
