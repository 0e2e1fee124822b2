"""Several processes of one training: they find each other, agree on steps, and end together."""
