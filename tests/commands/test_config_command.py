"""Overrides of configs on a command line."""

import pytest
from ml_collections import ConfigDict

from dino_jax.commands.command_line import CommandParser
from dino_jax.commands.config_command import config_parser, parse_with_config

FILE = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(seed=3, optimizer=dict(lr=0.5, frozen=False), size=(4, 4)))
"""


@pytest.fixture
def parse(tmp_path):
    """Parses the options after --config; a file that leaves `epochs` out is completed."""
    (tmp_path / "mine.py").write_text(FILE)

    def complete(config: ConfigDict) -> ConfigDict:
        return ConfigDict(config.to_dict() | {"epochs": 10.0})

    def read(config: ConfigDict) -> dict:
        if config.seed < 0:
            raise ValueError(f"config.seed must be at least 0, got {config.seed}")
        return config.to_dict()

    def run(*options: str, prefix: str = f"--config={tmp_path}/mine.py"):
        parser: CommandParser = config_parser("try", "Tries.")
        parser.add_argument("--out")
        given = [*prefix.split(), *options]
        return parse_with_config(parser, given, ("config",), "try", complete=complete, read=read)

    return run


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ([], {}),
        (["--config.seed=5"], {"seed": 5}),
        (["--config.seed", "5"], {"seed": 5}),
        (["-config.seed=5"], {"seed": 5}),
        (["--config.epochs=2"], {"epochs": 2.0}),
        (["--config.size=(1, 2)"], {"size": (1, 2)}),
        (["--config.size=(1, 2)", "--out=x", "--config.seed=5"], {"size": (1, 2), "seed": 5}),
        (["--config.optimizer.lr=1", "--config.optimizer.lr=2"], {"optimizer.lr": 2.0}),
        (["--config.optimizer.frozen"], {"optimizer.frozen": True}),
        (["--config.optimizer.frozen=true"], {"optimizer.frozen": True}),
        (["--config.optimizer.frozen", "--noconfig.optimizer.frozen"], {}),
    ],
)
def test_overrides_change_the_config_and_not_the_default(parse, options, changed):
    default = {"seed": 3, "optimizer.lr": 0.5, "optimizer.frozen": False, "size": (4, 4)}
    given = parse(*options)
    flat = {**given.config, **{f"optimizer.{k}": x for k, x in given.config["optimizer"].items()}}
    del flat["optimizer"]
    assert flat == default | {"epochs": 10.0} | changed
    assert given.default.seed == 3 and given.default.epochs == 10.0
    assert given.options.out == ("x" if "--out=x" in options else None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config.sed=5"], "config has no 'sed'; did you mean 'seed'?"),
        (["--config.optimizer.rate=1"], "no 'rate'"),
        (
            ["--config.seed=1", "--config.optimizer.b1=0.9"],
            "config.optimizer.b1 of version 0.1 is config.optimizer.adamw.b1 now",
        ),
        (["--config.knn.every_epochs", "0"], "config.knn of version 0.1 is config.evaluations"),
        (["--config.seed=many"], "config.seed must be an integer, got 'many'"),
        (["--config.seed=-1"], "config.seed must be at least 0, got -1"),
        (["--confg.seed=5"], "unexpected --confg.seed=5; did you mean '--config'?"),
        (["seed=5"], "unexpected seed=5; options look like --config.optimizer.lr=0.001"),
        (["--config.optimizer=1"], "--config.optimizer"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(parse, options, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(*options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_without_a_config_there_is_nothing_to_override(parse, capsys):
    with pytest.raises(SystemExit):
        parse(prefix="")
    assert "missing --config; a command looks like try" in capsys.readouterr().err
