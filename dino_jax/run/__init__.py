"""The life of a run: its screen, files and verdicts, and how it ends.

training.py       the story of a training, top to bottom
journal.py        combines all of it; instruments.py looks at the networks periodically
arguments.py      command lines with a whole config
whole_config.py   the config of a run, all sections; check.py checks it before anything is written
runtime.py        how a run is carried out
screen.py         the lines on the screen; throughput.py and first_step.py measure for them
metrics_file.py   metrics.jsonl; writers.py copies it to TensorBoard, Weights & Biases, MLflow
watch.py          numbers that are not finite and images that cannot be read end a run
diagnosis.py      a verdict from the numbers; diagnosis_log.py records when it changes
guard.py          a model that gets worse than the one it started from; roll_back.py undoes that
showcase.py       pictures and, with live.py, the report; best.py names the best checkpoint
show_config.py    prints a config; show_crops.py what the network will see
interruption.py   signals; save_clock.py checkpoints by the clock; profile.py xprof traces
"""
