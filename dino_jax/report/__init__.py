"""One offline HTML file that shows what a run, or several, did; imports no jax."""
