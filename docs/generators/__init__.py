"""Pages of the site that are made from the code, so that they cannot differ from it."""
