"""What lies in the folder of a run, and who reads and writes it.

layout.py         the names of all files
paths.py          local and remote paths, files written whole or not at all
config_json.py    config.json, which keeps another config out
json_lines.py     metrics.jsonl and diagnosis.jsonl: one history over all restarts
checkpointing.py  checkpoints, by Orbax
"""
