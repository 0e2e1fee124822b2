"""One run's life: what it prints, writes, judges, and how it ends.

journal.py        brings it all together; instruments.py looks at the networks from time to time
whole_config.py   the config of a run, all sections; check.py checks it before anything is written
runtime.py        how a run is carried out
screen.py         the lines on the screen; throughput.py and first_step.py measure for them
metrics_file.py   metrics.jsonl; writers.py copies it to TensorBoard, Weights & Biases, MLflow
watch.py          numbers that are not finite and images that cannot be read end a run
diagnosis.py      what the numbers say; diagnosis_log.py notes when that changes
guard.py          a model that gets worse than the one it started from; roll_back.py undoes that
showcase.py       pictures and, with live.py, the report; best.py names the best checkpoint
show_config.py    prints a config; show_crops.py what the network will see
interruption.py   signals; save_clock.py checkpoints by the clock; profile.py xprof traces
"""
