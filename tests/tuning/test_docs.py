"""Every command of docs/tuning.md runs, in its order, on a made catalogue."""

import argparse
import shlex
import shutil
from pathlib import Path

import numpy as np

from dino_jax.__main__ import main
from dino_jax.embedding.adapter import Adapter, save_adapter
from dino_jax.search import serve
from dino_jax.search.index import open_index
from dino_jax.search.origin import describe_vectors, open_projection
from tests.saved_model import save_tiny_vit
from tests.tuning.made_photos import save_catalogue

PAGE = Path(__file__).parents[2] / "docs/tuning.md"


def commands() -> list[list[str]]:
    """The command lines in the blocks of the page."""
    blocks = PAGE.read_text().split("```bash\n")[1:]
    lines = [line for block in blocks for line in block.split("```")[0].splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("dino-jax ")]


def give_frozen(out: Path) -> None:
    """What a tuning that has not found more does not hand out: here the next command needs it."""
    if out.name != "adapter":
        shutil.copytree("runs/mine", out, dirs_exist_ok=True)
        return
    index = open_index("shop")
    origin = index.manifest.origin
    described = describe_vectors(origin, open_projection(index.manifest, index.folder))
    identity = Adapter(np.eye(origin.dim, dtype=np.float32), np.zeros(origin.dim, np.float32))
    save_adapter(out, identity, {"origin": described})


def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_catalogue(tmp_path / "photos", products=30, photos=4)
    (tmp_path / "runs/mine").mkdir(parents=True)
    save_tiny_vit(tmp_path / "runs/mine", width=24)
    opened: list[argparse.Namespace] = []

    def open_and_close(arguments: argparse.Namespace) -> str:
        arguments.port = 0
        with serve.open_server(arguments) as server:
            opened.append(arguments)
            return server.link

    monkeypatch.setattr(serve, "serve", open_and_close)
    found = commands()
    assert {line[0] for line in found} == {"search", "tune"} and len(found) == 8
    for line in found:
        code = main(line)
        if line[0] == "tune" and code == 1:
            out = next(x for x in line if x.startswith("--out=")).removeprefix("--out=")
            give_frozen(tmp_path / out)
        else:
            assert code == 0, (line, capsys.readouterr())
    assert len(opened) == 1 and len(open_index("new-shop")) == 120
