"""Files in the folder of a run, and how they are read and written.

layout.py         the names of all files
paths.py          local and remote paths, files written whole or not at all
config_json.py    config.json, which refuses another config
lock.py           lock.json: one training at a time
json_lines.py     metrics.jsonl and diagnosis.jsonl: one history over all restarts;
                  pieces.py for stores without append
checkpointing.py  checkpoints, by Orbax; checkpoint_reading.py the newest sound one;
                  checksums.py and array_sum.py whether it is; state_layout.py how a state lies
                  in one
host_kernel.py    loops over arrays of the host, compiled and kept in the user's cache
"""
