"""Typed sections of a config: names, types, ranges, defaults and what they mean.

section.py   declares the options of a section, and reads a ConfigDict or a plain dict into it
defaults.py  the other way: sections as ConfigDicts, for config files and overrides
describe.py  a config as commented lines, and what differs from another one
change.py    other values for options of a typed section
upgrade.py   the config.json of earlier versions in today's form; upgrade_evaluations.py

The sections themselves are dataclasses beside the builders that read them.
"""
