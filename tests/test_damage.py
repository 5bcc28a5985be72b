"""Files of runs, damaged in every way: whatever reads them says so, or does without, and never with a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import vqtk_main, without_data
from tests.test_run_data import RECIPE, write_pictures

DAMAGES = int(os.environ.get("VQTK_DAMAGES", "1"))
"""How often each file is damaged; more of them are worth an hour by hand: VQTK_DAMAGES=200."""
RUN, WEIGHTS = "study/a-1/seed0", "study/a-1/seed0/checkpoints/update_00000002.safetensors"
EVAL = ["eval", RUN, "--items", "4"]
REPORT, COMPARE, RESUME = ["report", RUN], ["compare", "study", "-o", "out"], ["run", "--resume", RUN]
READERS = {
    f"{RUN}/manifest.json": [EVAL, REPORT, COMPARE, RESUME, ["reconstruct", RUN, "-n", "2"]],
    f"{RUN}/metrics.jsonl": [REPORT, COMPARE, RESUME],
    f"{RUN}/evaluation.json": [REPORT, RESUME],
    f"{RUN}/summary.json": [REPORT, COMPARE],
    f"{RUN}/references.json": [REPORT, COMPARE, [*EVAL, "--references"]],
    f"{RUN}/eval.json": [EVAL],
    f"{RUN}/recipe.yaml": [REPORT, COMPARE, RESUME],
    f"{RUN}/prior.safetensors": [["sample", RUN, "--prior", "markov", "--prior-items", "6"]],
    f"{RUN}/cell.json": [COMPARE],
    "study/study.json": [COMPARE],
    WEIGHTS: [["sample", RUN, "-n", "2"], ["stages", RUN, "-n", "2"], ["tree", RUN, "--options", "2"], RESUME],
    WEIGHTS.replace(".safetensors", ".trainer.pt"): [RESUME],
}
OTHERS = (None, [], {}, "text", -1, 0, 1.5, True, [None], {"a": []}, [[]], "é\ud800", 10**30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two runs, with every file that runs leave."""
    folder = tmp_path_factory.mktemp("whole")
    write_pictures(folder / "pics", seed=0)
    (folder / "pics.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        without_data(patch, folder)
        patch.chdir(folder)
        for seed in (0, 1):
            assert vqtk_main(patch, "run", "pics.yaml", f"seed={seed}", "--device", "cpu") == 0
            (made,) = Path("runs/pics").iterdir()
            made.rename(Path(f"study/a-1/seed{seed}")) if Path("study/a-1").is_dir() else shutil.move(made, RUN)
            (folder / f"study/a-1/seed{seed}/cell.json").write_text('{"state": "done", "error": null, "attempts": 1}')
        patch.setattr("vqtk.evaluate.references.STEPS", 2)
        assert vqtk_main(patch, *EVAL, "--references", "--device", "cpu") == 0
        assert vqtk_main(patch, *READERS[f"{RUN}/prior.safetensors"][0], "--device", "cpu") == 0
    cells = [{"variant": "a", "choices": {"x": "a"}, "seed": s, "path": f"a-1/seed{s}"} for s in (0, 1)]
    terms = {"equal": "updates", "value": 2, "said": "2 updates each.", "measured": {"ab": 2}}
    study = {"name": "s", "baseline": "a", "metrics": [{"name": "final", "better": "lower"}], "terms": terms}
    (folder / "study/study.json").write_text(json.dumps({**study, "axes": {"x": ["a"]}, "cells": cells}))
    return folder


def damaged(content: bytes, draw: random.Random, name: str) -> bytes | None:
    """The content as it may be after an accident, or a careless edit; None where the file is gone."""
    ways: list[Callable[[], bytes | None]] = [
        lambda: content[: draw.randrange(len(content))],
        lambda: content[draw.randrange(len(content)) :],
        lambda: _line_cut(content, draw),
        lambda: _flipped(content, draw),
        lambda: draw.randbytes(draw.randrange(40)),
        lambda: json.dumps(draw.choice(OTHERS)).encode(),
        lambda: None,
    ]
    if name.endswith((".json", ".jsonl")):
        ways += 7 * [lambda: _retyped(content, draw, lines=name.endswith("l"))]
    return draw.choice(ways)()


def _line_cut(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    lines[at] = lines[at][: draw.randrange(len(lines[at]))]
    return b"".join(lines)


def _flipped(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


def _retyped(content: bytes, draw: random.Random, *, lines: bool) -> bytes:
    """The JSON with one value replaced by one of another type, or removed."""
    texts = content.decode().splitlines() if lines else [content.decode()]
    at = draw.randrange(len(texts))
    root = [json.loads(texts[at])]
    holder, key = draw.choice(list(_values(root)))
    if draw.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = draw.choice(OTHERS)
    texts[at] = json.dumps(root[0])
    return "\n".join(texts).encode() + b"\n"


def _values(holder: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _values(holder[key])


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_told_or_done_without(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.setattr("vqtk.evaluate.references.STEPS", 2)
    if "VQTK_DAMAGES" not in os.environ:  # Plots are made, but drawing them as SVG takes most of the time.
        monkeypatch.setattr("vqtk.report.page.as_svg", lambda figure: "")
        monkeypatch.setattr("vqtk.compare.comparison.write_page", lambda comparison, path: path)
    for number in range(DAMAGES):
        draw = random.Random(f"{name} {number}")
        place = tmp_path / str(number)
        shutil.copytree(whole, place, ignore=shutil.ignore_patterns("images"))
        monkeypatch.chdir(place)
        content = damaged(Path(name).read_bytes(), draw, name)
        Path(name).unlink() if content is None else Path(name).write_bytes(content)
        command = draw.choice(READERS[name])
        capsys.readouterr()
        device = [] if command[0] in ("report", "compare") else ["--device", "cpu"]
        code = vqtk_main(monkeypatch, *command, *device)
        told = capsys.readouterr().err
        assert code in (0, 2), (command, content)
        assert "Traceback" not in told
        assert (code == 2) == ("error: " in told)
        shutil.rmtree(place)
