"""What a process imports: sets of modules, as seconds depend on the machine.

Each test is a process of its own, which prints what it has imported in the end.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dino_jax.__main__ import COMMANDS
from dino_jax.evaluation.__main__ import PROTOCOLS

ROOT = Path(__file__).parent.parent
# Packages that nothing but the one line which uses them may load, wherever they are installed.
STRANGERS = {
    "torch",
    "sklearn",
    "scipy.stats",
    "transformers",
    "tensorflow",
    "matplotlib",
    "pandas",
}
STRANGERS |= {"wandb", "mlflow", "pyarrow", "IPython", "apache_beam", "tensorflow_datasets"}
TRAINER = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorstore"}


# What a command line needs none of to be explained or refused; seconds of imports, most of them.
ONLY_FOR_THE_WORK = STRANGERS | TRAINER | {"numba", "scipy", "grain", "array_record", "rich"}
ONLY_FOR_THE_WORK |= {"PIL", "simplejpeg", "safetensors", "tensorboardX", "chex", "ml_dtypes"}
READS_PICTURES = ("build", "build-beam", "report")  # these import Pillow for it: 0.1 s
LINES = [[name] for name in COMMANDS]
LINES += [["evaluate", name] for name in PROTOCOLS] + [["doctor", "--config=quickstart"]]
SPEAK = """
import contextlib, io, json, sys
from dino_jax.__main__ import main
found = []
for line in json.loads(sys.argv[1]):
    before = set(sys.modules)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(line)
    except SystemExit as stopped:
        found.append([line, stopped.code, sorted(sys.modules.keys() - before)])
print(json.dumps(found))
"""


def imported_by(code: str, *arguments: str, cwd: Path = ROOT) -> set[str]:
    """Names of all modules that a process has imported after `code`."""
    report = "\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *arguments],
        cwd=cwd,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_command_imports_torch_or_other_strangers():
    code = (
        "import contextlib, importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    importlib.import_module('dino_jax.weights.torch_file')\n"
    )
    modules = [command.module for command in COMMANDS.values()]
    assert not imported_by(code, *modules) & STRANGERS


@pytest.mark.parametrize(("option", "exit_code"), [("--help", 0), ("--no-such-option", 2)])
def test_a_command_line_is_explained_or_refused_without_what_the_work_needs(option, exit_code):
    lines = [[*line, option] for line in sorted(LINES, key=lambda line: line[0] in READS_PICTURES)]
    done = subprocess.run(
        [sys.executable, "-c", SPEAK, json.dumps(lines)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert [(line, code) for line, code, _ in found] == [(line, exit_code) for line in lines]
    pictures = {"PIL", "simplejpeg"}
    surplus = {
        " ".join(line): new
        for line, _, modules in found
        if (
            new := ONLY_FOR_THE_WORK
            & set(modules) - (pictures if line[0] in READS_PICTURES else set())
        )
    }
    assert not surplus


def test_the_writer_of_every_run_imports_no_strangers(tmp_path):
    code = (
        "import sys; from dino_jax.run.writers import open_writers\n"
        "(writer,) = open_writers(('tensorboard',), sys.argv[1], 0, {})\n"
        "writer.write(1, {'loss': 1.0}); writer.close()"
    )
    loaded = imported_by(code, str(tmp_path))
    assert "tensorboardX" in loaded and not loaded & STRANGERS
    assert list((tmp_path / "tensorboard").iterdir())


SPY = '''
import json, sys
from pathlib import Path
import numpy as np

class Spy:
    """A source that notes what its worker has imported."""
    class_names = None
    def __len__(self):
        return 8
    def name(self, index):
        return str(index)
    def __getitem__(self, index):
        Path("imported.json").write_text(json.dumps([sorted(sys.modules), can_have_jax()]))
        return {"image": np.zeros((40, 40, 3), np.uint8), "label": 0, "name": ""}

def can_have_jax():
    import importlib.util
    return importlib.util.find_spec("jax") is not None
'''
COMMAND = """
import sys
sys.path.insert(0, "."); sys.path.insert(0, sys.argv[1])
import jax  # what a worker must not do
from configs import quickstart
from dino_jax.data.multi_crop import build_multi_crop
from dino_jax.data.pipeline import build_train_stream
from dino_jax.data.worker_process import start_workers_alone
from dino_jax.run.whole_config import complete_config, read_config
from spy import Spy

def main():
    start_workers_alone()
    config = read_config(complete_config(quickstart.get_config()))
    stream = build_train_stream(Spy(), build_multi_crop(config.augment), seed=0, batch_size=4,
        start_step=0, host=0, hosts=1, workers=1, threads=0, max_pixels=10**6)
    next(stream)
    stream.close()

if __name__ == "__main__":
    main()
"""


def test_an_input_worker_imports_what_it_runs(tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    command = tmp_path / "dino-jax"  # as the one that pip installs
    command.write_text(
        COMMAND.replace("from dino_jax.config.defaults import complete_config\n", "")
    )
    done = subprocess.run(
        [sys.executable, str(command), str(ROOT)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded, can_have_jax = json.loads((tmp_path / "imported.json").read_text())
    assert {"grain", "numba", "spy"} <= set(loaded)
    assert not set(loaded) & (STRANGERS | TRAINER)
    assert can_have_jax


def test_the_main_module_of_other_programs_stays():
    code = (
        "import sys\n"
        "from dino_jax.data.worker_process import start_workers_alone\n"
        "before = sys.modules['__main__'].__spec__\n"
        "start_workers_alone()\n"
        "assert sys.modules['__main__'].__spec__ is before"
    )
    imported_by(code)


def test_choices_without_jax_are_the_keys_of_their_tables():
    from dino_jax.evaluation.knn import WEIGHTS
    from dino_jax.evaluation.options.knn import CONVENTIONS
    from dino_jax.visualize.choices import PICTURES
    from dino_jax.visualize.draw import DRAW

    assert set(CONVENTIONS) == set(WEIGHTS)
    assert set(PICTURES) == set(DRAW)
