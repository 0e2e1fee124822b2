"""What lies in the folder of a run, and who writes it."""
