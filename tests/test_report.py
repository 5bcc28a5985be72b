"""The report of a run: one page that needs no other file."""

from __future__ import annotations

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
    for heading in ("Training", "Samples", "Reconstructions", "Stage by stage", "Proposals", "Recipe", "Manifest"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 4
    assert (run / "recipe.yaml").read_text(encoding="utf-8").splitlines()[0] in page


def test_a_report_of_a_run_that_has_just_begun_can_be_written(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "tiny" / "begun"
    begun.mkdir(parents=True)
    for name in ("recipe.yaml", "manifest.json"):
        (begun / name).write_bytes((run / name).read_bytes())
    page = write_report(begun).read_text(encoding="utf-8")
    assert "just begun" in page
    assert "<h2>Samples</h2>" not in page


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
