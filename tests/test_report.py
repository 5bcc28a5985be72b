"""The report of a run: one page that needs no other file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.running import TINY, vqtk_main, without_data
from vqtk.report.page import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        assert vqtk_main(patch, "run", folder / "tiny.yaml", "--out", folder / "runs") == 0
    return next((folder / "runs" / "tiny").iterdir())


def test_a_run_leaves_a_report_that_needs_no_other_file(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\((?!#)|@import|<script|<link', page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    for heading in ("Plots and images", "Stages on the test split", "Recipe", "Manifest"):
        assert f"<h2>{heading}</h2>" in page
    plots, images = ["Losses", "Entropy", "Rate and distortion", "Code usage"], ["Samples", "Reconstructions"]
    assert re.findall("<h3>(.*?)</h3>", page) == [*plots, *images, "Stage by stage", "Proposals"]
    assert page.count("<svg") == 4
    assert (run / "recipe.yaml").read_text(encoding="utf-8").splitlines()[0] in page


def test_values_are_shown_under_the_pointer_as_the_files_hold_them(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<g class="value"><title>(.*?)</title><(?:path|use) ', page)
    tested = json.loads((run / "evaluation.json").read_text())
    (stage, *_), usage = tested["stages"], tested["usage"]
    assert (
        f"the model, {stage['bits']:g} bits: {stage['mse_pixels' if 'mse_pixels' in stage else 'distortion']:.4g}"
        in shown
    )
    cells = [
        f"stage {s}, option {k}: {count / sum(row):.2%}"
        for s, row in enumerate(usage, 1)
        for k, count in enumerate(row)
    ]
    assert [text for text in shown if ", option " in text] == cells
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert f"choice, update {first['update']}: {first['choice']:.4g}" in shown
    assert "hover:" not in page


def test_a_report_of_a_run_that_has_just_begun_can_be_written(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "tiny" / "begun"
    begun.mkdir(parents=True)
    for name in ("recipe.yaml", "manifest.json"):
        (begun / name).write_bytes((run / name).read_bytes())
    page = write_report(begun).read_text(encoding="utf-8")
    assert "just begun" in page
    assert "Samples" not in page


def test_a_line_of_metrics_that_was_cut_short_is_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 5, "cho')
    assert vqtk_main(monkeypatch, "report", run) == 0
    assert str(run / "report.html") in capsys.readouterr().out


def test_what_is_no_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqtk_main(monkeypatch, "report", tmp_path) == 2
    assert "not a run directory" in capsys.readouterr().err
