"""Damages valid files in every way and looks whether each reader gives a value or its own error.

mutation.py  the ways to damage bytes, and files that are none
samples.py   valid files of every format
readers.py   the table of readers: how a file is made, read, and what it may raise
worker.py    one process that reads many inputs within limits of time and memory
__main__.py  starts workers and counts; tests/test_fuzz.py is the short form
"""
