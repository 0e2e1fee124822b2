"""Every command as pipelines of Apache Beam: the bytes of one process, by 1, 2 and 4 workers."""

import pytest

pytest.importorskip("apache_beam")

from dino_jax.__main__ import main
from tests.curation.made_pool import embed_pool, files_of, write_pool

# Commands in their order; {} is the folder of all.
COMMANDS = {
    "filtered": ["filter", "{}/embedded"],
    "unique": [
        *("deduplicate", "{}/embedded", "--of={}/filtered", "--threshold=0.95", "--cells=6"),
        *("--against={}/few", "--against-threshold=0.999"),
    ],
    "stars": ["deduplicate", "{}/embedded", "--groups=stars", "--threshold=0.9", "--cells=5"],
    "by_rule": ["deduplicate", "{}/embedded", "--groups=semdedup", "--cells=5"],
    "tree": [
        *("cluster", "{}/embedded", "--of={}/unique", "--clusters", "9", "3"),
        *("--samples", "2", "2", "--rounds=2", "--iterations=3"),
    ],
    "sampled": ["sample", "{}/tree", "--target=30"],
    "balanced": ["balance", "{}/tree", "--cap=5"],
    "like": ["retrieve", "{}/embedded", "--seeds={}/few", "--nearest=3"],
    "like_tree": [
        *("retrieve", "{}/embedded", "--of={}/unique", "--seeds={}/few", "--tree={}/tree"),
        *("--above=0", "--per-cluster=4"),
    ],
}
WORKERS = {
    "one": ["--direct_num_workers=1"],
    "two": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    "four": ["--direct_num_workers=4", "--direct_running_mode=multi_threading"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pool and a few of its images, and all results by one process."""
    root = tmp_path_factory.mktemp("curation")
    embed_pool(write_pool(root / "pool"), root / "embedded")
    embed_pool(root / "pool/junk", root / "few")
    for name, line in COMMANDS.items():
        assert main(["curate", *[word.format(root) for word in line], f"--out={root}/{name}"]) == 0
    return root


@pytest.mark.parametrize("workers", WORKERS)
def test_workers_of_beam_write_what_one_process_does(folder, workers, tmp_path):
    for name, line in COMMANDS.items():
        words = [word.format(folder) for word in line]
        runner = ["--beam", "--runner=DirectRunner", *WORKERS[workers]]
        assert main(["curate", *words, f"--out={tmp_path}/{name}", *runner]) == 0
        assert files_of(tmp_path / name) == files_of(folder / name), name
