"""Shared parts of command lines; each command itself is in the package that it belongs to.

command_line.py     parsers, and errors that are the user's to fix
config_command.py   --config=NAME_OR_FILE --config.a.b=value; config_file.py finds the file,
                    overrides.py reads the values
arguments.py        kinds of arguments with their ranges; console.py any encoding, gone readers
jax_switches.py     switches of JAX that commands ignore
batch_command.py    commands that go through many images, on one machine or a pod
compilation_cache.py where compiled programs are kept; false_alarms.py hides what XLA says then
hidden_packages.py  imports without what a package takes along
signals.py          Ctrl-C and SIGTERM; progress.py how far a command is
source_arguments.py options that name a source of images
config_from_yaml.py official YAMLs of DINOv2 and DINOv3 as config files; official_config.py and
                    official_v3.py are their dictionaries
old_names.py        modules of version 0.1 under their old names
"""
