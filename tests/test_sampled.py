"""A study that compares by samples, and the references beside its curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.running import TINY, vqtk_main, without_data
from vqtk.compare.collect import collect
from vqtk.compare.comparison import ComparisonRequest, compare
from vqtk.compare.page import compared_rate_distortion
from vqtk.compare.result import RunComparison
from vqtk.compare.variants import differing
from vqtk.errors import DataError, VqtkError

RECIPES = Path(__file__).parent.parent / "recipes"
STUDY = """\
name: sampled
base: tiny.yaml
overrides: [train.picture_items=4]
axes:
  condition: {scale: [], none: ["model.condition=none"]}
seeds: [0]
metrics: [samples_frechet, samples_kernel, final]
equal: {updates: 2}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vqtk.runs.train.write_report", lambda path: None)
    monkeypatch.setattr("vqtk.evaluate.quality.inception", lambda device: (None, "no Inception here"))
    monkeypatch.setattr("vqtk.evaluate.quality.UPDATES", 3)
    monkeypatch.setattr("vqtk.evaluate.references.STEPS", 1)
    Path("tiny.yaml").write_text(TINY)
    Path("study.yaml").write_text(STUDY)
    return tmp_path


class Here:
    """An executor that trains in this process."""

    def __init__(self, settings: Any, *, workers: int | None = None):
        self.settings, self.workers, self._cells = settings, 1, list[Path]()

    def submit(self, run: Path) -> None:
        self._cells.append(run)

    def events(self) -> Any:
        from vqtk.study.worker import train_run

        while self._cells:
            train_run(self._cells.pop(0), self.settings)
            yield None

    def stop(self) -> None: ...

    def kill(self) -> None: ...


def ablate(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("vqtk.study.runner.Local", Here)
    return vqtk_main(monkeypatch, "ablate", "study.yaml", "--device", "cpu", "--threads", "1")


@pytest.mark.usefixtures("place")
def test_samples_are_measured_once_a_run_is_trained_and_for_runs_that_lack_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vqtk.study.runner.are_worth_it", lambda *_: True)
    Path("study.yaml").write_text(STUDY.replace("[samples_frechet, samples_kernel, final]", "[final]"))
    assert ablate(monkeypatch) == 0
    before = {path: json.loads(path.read_text()) for path in Path("studies").rglob("summary.json")}
    assert len(before) == 2
    Path("study.yaml").write_text(STUDY)
    assert ablate(monkeypatch) == 0
    for path, summary in before.items():
        now = json.loads(path.read_text())
        assert now["stages"] == summary["stages"]
        assert now["test"]["samples_frechet"] > now["quality"]["reference"]["frechet_classifier"] > 0
        assert now["test"]["samples_kernel"] == now["quality"]["kid_classifier"]
        assert now["quality"]["samples"] == 1000
    found = json.loads(Path("studies/sampled/comparison.json").read_text())
    assert found["metric"] == "samples_frechet"
    assert found["also"] == ["samples_kernel", "final"]
    assert [row["mean"] for row in found["variants"]] != [None, None]
    (told,) = [note for note in found["notes"] if "samples were compared" in note]
    assert "1,000 test examples in features of a classifier trained on mnist (NOT the standard FID)" in told
    check_references(compare([Path("studies/sampled")]))


def check_references(found: RunComparison) -> None:
    """They are those of the baseline's rates, and drawn with a name each."""
    assert found.references is not None
    assert [point["bits"] for point in found.references["kmeans"]["stages"]] == [2, 4, 6]
    figure = compared_rate_distortion(found)
    assert figure is not None
    drawn = {str(line.get_label()): line.get_ydata() for line in figure.axes[0].lines}
    assert list(drawn["K-means"]) == [point["mse"] for point in found.references["kmeans"]["stages"]]
    assert "neither floor nor ceiling" in Path("studies/sampled/report.html").read_text()


@pytest.mark.usefixtures("place")
def test_runs_whose_samples_were_compared_in_different_features_are_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ablate(monkeypatch) == 0
    study = Path("studies/sampled")
    one, *_ = study.rglob("summary.json")
    said = json.loads(one.read_text())
    one.write_text(json.dumps({**said, "quality": {**said["quality"], "features": "Inception v3"}}))
    assert "Features of samples differ: " in differing(collect([study]))[0]
    with pytest.raises(VqtkError, match="equal terms"):
        compare([study], ComparisonRequest())


@pytest.mark.usefixtures("place")
def test_data_that_samples_cannot_be_compared_on_are_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("study.yaml").write_text(STUDY.replace("tiny.yaml", str(RECIPES / "toy2d.yaml")))
    assert ablate(monkeypatch) == 2
    told = capsys.readouterr().err
    assert "study.yaml: metrics: samples_frechet is a metric of image data" in " ".join(told.split())
    assert not list(Path("studies").rglob("metrics.jsonl"))
    Path("study.yaml").write_text(STUDY)
    monkeypatch.setattr("vqtk.study.runner.features_at_hand", refuses)
    assert ablate(monkeypatch) == 2
    assert not list(Path("studies").rglob("metrics.jsonl"))


def refuses(*_: object, **__: object) -> None:
    raise DataError("no labels")
