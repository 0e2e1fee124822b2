"""The names of all files in the workdir of a run.

config.json                   the config, see `config_json`
lock.json                     who trains here now, see `lock`
data.json                     number and digest of the images that the run has seen
data_names/DIGEST.json.gz     their names, or some of very many
newest_checkpoint.json        {"step": 200}, once checkpoint 200 is whole
metrics.jsonl                 a line of numbers per logged step, docs/metrics.md
metrics.jsonl.000000000065536 what follows byte 65536, on gs:// until the end of a run, see `pieces`
diagnosis.jsonl               a line per change of the diagnosis
checkpoints/200/              the state after 200 updates, see `checkpointing`
checkpoints_unreadable/       checkpoints that could not be read, moved out of the way
first_neighbours/NAME.json    the first model's neighbours, of an evaluation of kind agreement
guard.json, guard_copy.json   the guard's reference and roll-backs, only with `config.guard`
bad_images.txt                training images that could not be read
NAME.damaged                  a file of these that could not be read, see `side_files`
report.html                   the report
crops.png                     some training images with their crops
probes/images/00.png          a probe image
probes/200/00_attention.png   attention of the cls token over the image, mean of the heads
probes/200/00_heads.png       the same for each head, side by side, without the image
probes/200/00_pca.png         first three principal components of the patches
probes/200/00_neighbours.png  nearest training images, side by side
probes/200/00_seen.png        MAE: the image without the patches that are hidden
probes/200/00_filled.png      MAE: these patches filled in by the decoder
probes/200/pca.npy            coordinates behind the colors, [P, h, w, 3] float16
probes/200/probes.json        names, labels, cosines; written last
profile/                      xprof traces
eval/200/knn.json             result of an evaluation of the checkpoint of step 200
compiled/                     compiled programs, if other machines shall find them
tensorboard/, wandb*, mlruns/, mlflow*   copies of the metrics, see `config.runtime.writers`
"""

from etils import epath

CONFIG_JSON = "config.json"
LOCK_JSON = "lock.json"
DATA_JSON = "data.json"
DATA_NAMES = "data_names"
NEWEST_CHECKPOINT_JSON = "newest_checkpoint.json"
METRICS_JSONL = "metrics.jsonl"
DIAGNOSIS_JSONL = "diagnosis.jsonl"
CHECKPOINTS = "checkpoints"
UNREADABLE_CHECKPOINTS = "checkpoints_unreadable"
FIRST_NEIGHBOURS = "first_neighbours"
GUARD_JSON = "guard.json"
GUARD_COPY_JSON = "guard_copy.json"
BAD_IMAGES_TXT = "bad_images.txt"
REPORT_HTML = "report.html"
CROPS_PNG = "crops.png"
PROBES = "probes"
PROBES_JSON = "probes.json"
PCA_NPY = "pca.npy"
PROFILE = "profile"  # `xprof --logdir` and TensorBoard read it
EVALUATIONS = "eval"
COMPILED = "compiled"
TENSORBOARD = "tensorboard"
WANDB_RUN_ID_TXT = "wandb_run_id.txt"
MLRUNS = "mlruns"
MLFLOW_RUN_ID_TXT = "mlflow_run_id.txt"


def probe_image(workdir: epath.Path, number: int) -> epath.Path:
    """The file of a probe image."""
    return workdir / PROBES / "images" / f"{number:02d}.png"


def step_folder(workdir: epath.Path, step: int) -> epath.Path:
    """The folder of the evaluation after `step` updates."""
    return workdir / PROBES / str(step)


def drawn_steps(workdir: epath.Path) -> list[int]:
    """Steps with pictures, ascending; the last one may not be complete yet."""
    folder = workdir / PROBES
    if not folder.exists():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.name.isdecimal())
