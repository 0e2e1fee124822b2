"""The commands of docs/curation.md, run with a small model."""

import csv
import json
import re
import shlex
import subprocess
import sys

from dino_jax.__main__ import main
from tests.run_train import ROOT, SMALL, overrides, run

# Vectors of a model that has hardly learned are all alike.
UNTRAINED = {
    "--threshold=0.9998": "--threshold=0.99999",
    "--against-threshold=0.9999": "--against-threshold=1",
}
PAGE = (ROOT / "docs/curation.md").read_text()


def commands():
    """The commands of the page as lists of words, in order; Beam's stand in other blocks."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line]


def test_every_command_of_the_page_works_on_its_crawl(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "crawl.py").write_text(script)
    first, *others = commands()
    assert first == ["python", "crawl.py"]
    subprocess.run([sys.executable, "crawl.py"], check=True, env={"PYTHONPATH": str(ROOT)})
    assert len(list((tmp_path / "crawl").iterdir())) == 3302
    small = SMALL | {"runtime.compilation_cache": tmp_path / "compiled", "batch_size": 16}
    for program, *words in others:
        assert program == "dino-jax"
        if words[0] == "train":
            placed = [
                re.sub(r"=(runs/|crawl|even/)", rf"={tmp_path}/\1", word) for word in words[1:]
            ]
            code, _, err = run(*placed, *overrides(small))
            assert code == 0, (words, err)
        else:
            assert main([UNTRAINED.get(word, word) for word in words]) == 0
    report = {
        name: json.loads((tmp_path / name / "report.json").read_text())
        for name in ("filtered", "unique", "even", "capped", "like")
    }
    assert report["filtered"]["kept"] == 3002  # without the junk
    assert report["unique"]["recall"] >= 0.99
    assert report["even"]["taken"] == min(400, report["unique"]["kept"])
    assert 0 < report["like"]["kept"] < report["unique"]["kept"]
    with (tmp_path / "unique/removed.csv").open(newline="") as file:
        reasons = [line["reason"] for line in csv.DictReader(file)]
    assert "near-copy" in reasons
