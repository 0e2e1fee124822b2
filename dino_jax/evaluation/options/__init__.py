"""The options of `dino-jax evaluate`, one file for each protocol of `..protocols`, with its help.

Nothing here imports jax: a command line is read, explained or refused at once. A file has its help
as docstring, `add_arguments`, and the defaults of the paper; groups.py has what several share.
"""
