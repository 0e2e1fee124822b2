"""dino-jax report: one offline page of one run or several."""

import json
import re
from html.parser import HTMLParser

import pytest

from dino_jax.report.__main__ import main
from dino_jax.report.panels import SECTIONS, Panel

EVIL = "<script>alert('x')</script>"


def write_run(folder, changes=None, steps=30):
    folder.mkdir()
    lines = [
        {"step": step, "loss": 5 - step / 10, "lr": 1e-3, "images_per_second": 99.0 + step}
        for step in range(1, steps + 1)
    ]
    lines[-1] |= {"knn10/teacher": 91.364, EVIL: 3.5}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    config = {"format": 1, "batch_size": 64, "seed": 0, "data": {"kind": EVIL}} | (changes or {})
    (folder / "config.json").write_text(json.dumps(config))
    diagnosis = {"step": 4, "state": "s", "title": EVIL, "evidence": EVIL, "advice": EVIL}
    (folder / "diagnosis.jsonl").write_text(json.dumps(diagnosis | {"severity": "failure"}))
    return folder


class Page(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_of_a_run_is_one_offline_file_in_its_workdir(tmp_path, capsys):
    run = write_run(tmp_path / "my run")
    assert main([str(run)]) == 0
    html = (run / "report.html").read_text()
    assert re.fullmatch(r".*report\.html: 0\.\d\d MB\n", capsys.readouterr().out)
    assert html.startswith("<!DOCTYPE html>\n")
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert not re.search(r"url\(|@import|https?:", html)
    text = " ".join(page.text)
    for expected in ("my run", "91.4 %", "1\u202f920 images", "k-NN accuracy", "Loss", "Speed"):
        assert expected in text


def test_everything_from_files_is_escaped(tmp_path):
    run = write_run(tmp_path / "<b>&run")
    assert main([str(run)]) == 0
    html = (run / "report.html").read_text()
    assert EVIL not in html and "<b>&run" not in html
    page = Page(html)
    assert "".join(page.text).count(EVIL) >= 5
    assert "<b>&run" in "".join(page.text)


def test_two_runs_are_drawn_over_each_other_with_the_difference_of_their_configs(tmp_path):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", {"seed": 1, "extra": [1, 2]}, steps=20)
    out = tmp_path / "both.html"
    assert main([str(first), str(second), f"--out={out}"]) == 0
    page = Page(out.read_text())
    text = "".join(page.text)
    assert "2 of 4 values differ." in text
    assert re.search(r"extra\u2013\[1, 2\]", text)
    assert "a vs. b" in text
    assert not (first / "report.html").exists()


def test_the_work_grows_with_the_number_of_metrics_and_not_with_its_square(tmp_path, monkeypatch):
    asked, label = [], Panel.label
    monkeypatch.setattr(Panel, "label", lambda self, name: asked.append(name) or label(self, name))
    panels = sum(len(section.panels) for section in SECTIONS)
    lines = [{"step": step} | {f"group/{n}": step * n for n in range(200)} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main([str(tmp_path)]) == 0
    assert len(asked) <= 200 * (2 * panels + 1)  # whether another panel shows it, and its own
    assert (tmp_path / "report.html").read_text().count("group/199") >= 1


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, capsys, kind):
    folder = tmp_path / "run"
    if kind == "empty":
        folder.mkdir()
    with pytest.raises(SystemExit, match="2"):
        main([str(folder)])
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_an_out_that_cannot_be_written_is_an_error(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    with pytest.raises(SystemExit, match="2"):
        main([str(run), f"--out={tmp_path}/no/x.html"])
    assert "no/x.html" in capsys.readouterr().err
