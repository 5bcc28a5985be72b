"""Vectors: files of several formats, a refiner and baselines for them, and recall by searching what was decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vqtk
from tests.images import message
from tests.running import vqtk_main
from vqtk.datasets._mapped import Mapped
from vqtk.datasets.vectors import Vectors
from vqtk.errors import ShapeError, VqtkError
from vqtk.io.weights import load_weights, weights_of
from vqtk.losses.gaussian import Gaussian
from vqtk.losses.mse import MSE
from vqtk.metrics import retrieval_metrics
from vqtk.models.faiss import Faiss
from vqtk.nn.types import DataSpec
from vqtk.objectives.fitting import Fitting
from vqtk.refiners.qinco import QINCo
from vqtk.searches.beam import Beam
from vqtk.searches.preselect import Preselect
from vqtk.testing import contract

VALUES = 6


def drawn(count: int, *, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, VALUES)) * 3 + 5).astype(np.float32)


def write_vecs(path: Path, rows: np.ndarray) -> None:
    length = np.full((len(rows), 1), rows.shape[1], dtype="<i4").view(np.uint8)
    stored = rows.astype("u1") if path.suffix == ".bvecs" else rows.astype("<f4")
    path.write_bytes(np.hstack([length, stored.view(np.uint8).reshape(len(rows), -1)]).tobytes())


def folder(path: Path, **counts: int) -> Path:
    for seed, (name, count) in enumerate((counts or {"train": 40, "base": 20, "query": 5}).items()):
        np.save(path / f"{name}.npy", drawn(count, seed=seed))
    return path


def of(path: Path, **settings: Any) -> Vectors:
    return Vectors(path=str(path), **{"values": VALUES, **settings})


# ── the data set ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", [".fvecs", ".bvecs", ".npy"])
def test_vectors_of_every_format_are_read_as_they_were_written(ending: str, tmp_path: Path) -> None:
    rows = np.abs(drawn(12)).astype(np.uint8) if ending == ".bvecs" else drawn(12)
    for name in ("sift_learn", "sift_base", "sift_query"):
        if ending == ".npy":
            np.save(tmp_path / f"{name}.npy", rows)
        else:
            write_vecs(tmp_path / f"{name}{ending}", rows)
    splits = of(tmp_path, normalise=False).load(tmp_path)
    for split in (splits.train, splits.test, splits.queries):
        assert isinstance(split, Mapped)
        assert isinstance(split.rows, np.memmap)
        assert np.array_equal(split[torch.arange(12)].numpy(), rows.astype(np.float32))
    assert splits.units is None


def test_training_units_keep_the_proportions_of_distances_and_are_recorded(tmp_path: Path) -> None:
    splits = of(folder(tmp_path)).load(tmp_path)
    units = splits.train[torch.arange(40)]
    assert units.mean(0).abs().max() < 1e-6
    assert units.square().mean().item() == pytest.approx(1)
    assert splits.units is not None
    (std,) = splits.units["std"]
    restored = splits.test[torch.arange(20)].numpy() * std + np.array(splits.units["mean"], dtype=np.float32)
    assert np.allclose(restored, drawn(20, seed=1), atol=1e-5)
    facts = splits.fingerprint()
    assert (facts["train_items"], facts["test_items"], facts["queries"]) == (40, 20, 5)
    assert splits.train.to(torch.device("cpu"))[torch.tensor([3])].equal(splits.train[torch.tensor([3])])
    np.save(tmp_path / "query.npy", drawn(5, seed=9))
    assert of(tmp_path).load(tmp_path).fingerprint()["sha256"] != facts["sha256"]


def test_a_single_file_is_divided_so_that_appending_vectors_moves_none(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", drawn(30))
    splits = of(tmp_path / "all.npy", normalise=False).load(tmp_path)
    assert len(splits.train) + len(splits.test) == 30
    before = {tuple(row.tolist()) for row in splits.test[torch.arange(len(splits.test))]}
    np.save(tmp_path / "all.npy", np.concatenate([drawn(30), drawn(30, seed=1)]))
    more = of(tmp_path / "all.npy", normalise=False).load(tmp_path).test
    assert before <= {tuple(row.tolist()) for row in more[torch.arange(len(more))]}
    assert of(tmp_path / "all.npy").count(tmp_path) == 60


def test_the_data_set_keeps_to_the_contract_on_files_of_its_own(tmp_path: Path) -> None:
    for check in contract("dataset", "vectors", example={"path": str(folder(tmp_path)), "values": VALUES}):
        check()


def _cut(path: Path) -> None:
    write_vecs(path / "train.fvecs", drawn(9))
    (path / "train.fvecs").write_bytes((path / "train.fvecs").read_bytes()[:-3])


def _odd_length(path: Path) -> None:
    write_vecs(path / "train.fvecs", drawn(9))
    stored = bytearray((path / "train.fvecs").read_bytes())
    stored[4 * (4 * (VALUES + 1))] = 7
    (path / "train.fvecs").write_bytes(bytes(stored))


def _cut_npy(path: Path) -> None:
    folder(path)
    (path / "base.npy").write_bytes((path / "base.npy").read_bytes()[:-4])


def _not_finite(path: Path) -> None:
    rows = drawn(9)
    rows[7, 2] = np.nan
    np.save(folder(path) / "query.npy", rows)


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "holds no such file, and none is named train. Expected a .fvecs"),
    "no train": (lambda path: folder(path, base=9), "holds base.npy, and none is named train"),
    "twice": (lambda path: folder(path, train=9, a_learn=9), "both hold the train vectors"),
    "truncated": (_cut, "it has 249 bytes, and vectors of 6 values take 28 each, so that the last one is incomplete"),
    "another length": (_odd_length, "vector 4 has length 7, and those before it 6"),
    "no length": (lambda path: (path / "train.fvecs").write_bytes(b""), "does not begin with the length of a vector"),
    "truncated array": (_cut_npy, "base.npy: "),
    "not finite": (_not_finite, "query.npy: vector 7 of 9 has a value that is not a finite number"),
    "not numbers": (lambda path: np.save(path / "train.npy", np.array(["a"])), "Expected numbers of shape (n, 6)"),
    "another width": (lambda path: np.save(path / "train.npy", drawn(9)[:, :4]), "data.values is 6. Set data"),
    "objects": (lambda path: np.save(path / "train.npy", np.array([{}]), allow_pickle=True), "Python objects"),
    "empty": (lambda path: np.save(path / "train.npy", drawn(0)), "holds no vectors"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_wrong_with_files_is_said_on_one_line(case: str, tmp_path: Path) -> None:
    damage, expected = DAMAGED[case]
    damage(tmp_path)
    said = message(of(tmp_path), tmp_path)
    assert expected in said


# ── the refiner ──────────────────────────────────────────────────────────────────────────────────


def refiner(size: tuple[int, ...] = (), **settings: Any) -> QINCo:
    torch.manual_seed(0)
    return QINCo(2, size, 3, 5, 2, **{"width": 4, "hidden": 6, "blocks": 2, **settings}).double()


def test_at_first_each_delta_is_its_codeword_and_later_not() -> None:
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    plain = refiner((3, 3))
    deltas, _ = plain.propose(x, 1, None)
    assert torch.equal(deltas, plain.codewords[1].view(1, 5, 2, 3, 3).expand(4, -1, -1, -1, -1))
    deltas, _ = refiner((3, 3), zero_last=False).propose(x, 1, None)
    assert not torch.allclose(deltas[0], deltas[1])


@pytest.mark.parametrize("shared", [False, True])
def test_the_network_sees_the_codeword_and_the_reconstruction_side_by_side(shared: bool) -> None:
    one, x = refiner(zero_last=False, shared=shared), torch.randn(4, 2, dtype=torch.float64)
    network, project = one.networks[0 if shared else 2], one.project[0 if shared else 2]
    pairs = torch.cat([one.codewords[2].expand(4, -1, -1), x[:, None].expand(-1, 5, -1)], 2)
    features = pairs @ project.T
    for up, down in zip(network.up, network.down, strict=True):
        features = features + down(torch.relu(up(features)))
    assert torch.allclose(one.propose(x, 2, None)[0], one.codewords[2] + network.out(features))


def test_the_deltas_of_several_options_are_those_of_all() -> None:
    one, x = refiner((2,), zero_last=False), torch.randn(4, 2, 2, dtype=torch.float64)
    codes = torch.tensor([[0, 4], [3, 3], [1, 2], [2, 0]])
    every, _ = one.propose(x, 0, None)
    assert torch.allclose(one.choose_many(x, 0, None, codes)[0], every[torch.arange(4)[:, None], codes])
    assert torch.allclose(one.choose(x, 0, None, codes[:, 1])[0], every[torch.arange(4), codes[:, 1]])


# ── search ───────────────────────────────────────────────────────────────────────────────────────

RECIPE = """
name: small
data: {name: vectors, path: PATH, values: 6, batch: 16}
model: {name: vqdraw, stages: 3, options: 4, loss: mse, refiner: {name: qinco, width: 4, hidden: 4, blocks: 1}}
train: {updates: 5, evaluate_items: 8, picture_items: 2}
"""


def test_recall_is_that_of_a_brute_force_search_in_the_units_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = of(folder(tmp_path, train=60, base=300, query=40)).load(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE.replace("PATH", str(tmp_path)))
    model = vqtk.build(tmp_path / "small.yaml")
    monkeypatch.setattr("vqtk.metrics._retrieval.MOST_VALUES", 50_000)
    monkeypatch.setattr("vqtk.metrics._retrieval.QUERIES_AT_ONCE", 16)
    items = torch.arange(300).flip(0)[:250]
    codes = model.random_codes(250, generator=torch.Generator().manual_seed(0))
    codes[:125] = model.encode(splits.test[items[:125]])
    found = retrieval_metrics(model, splits, items, codes)

    assert splits.units is not None
    mean, std = np.array(splits.units["mean"]), splits.units["std"][0]
    base, query = drawn(300, seed=1)[items.numpy()].astype(float), drawn(40, seed=2).astype(float)
    decoded = model.decode(codes).detach().double().numpy() * std + mean
    nearest = np.square(query[:, None] - base).sum(2).argmin(1)
    ranks = np.square(query[:, None] - decoded).sum(2).argsort(1, kind="stable")
    for most in (10, 100):
        expected = np.mean([one in row[:most] for one, row in zip(nearest, ranks, strict=True)])
        assert found[f"recall_at_{most}"] == pytest.approx(expected, abs=2 / 40)  # Equal codes are equally near.
    assert 0 <= found["recall_at_1"] <= found["recall_at_10"] < found["recall_at_100"] <= 1
    assert found["squared_error"] == pytest.approx(np.square(base - decoded).sum(1).mean(), rel=1e-4)


def test_a_run_records_recall_and_eval_prints_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    folder(tmp_path / "data")
    (tmp_path / "small.yaml").write_text(RECIPE.replace("PATH", "data"))
    assert vqtk_main(monkeypatch, "run", "small.yaml", "--device", "cpu") == 0
    (run,) = Path("runs/small").iterdir()
    test = json.loads((run / "summary.json").read_text())["test"]
    assert {"recall_at_1", "recall_at_10", "recall_at_100", "squared_error"} <= set(test)
    assert vqtk_main(monkeypatch, "eval", run) == 0
    assert "Recall of the nearest of 20 vectors for 5 queries" in " ".join(capsys.readouterr().out.split())
    measured = json.loads((run / "eval.json").read_text())["test"]
    assert measured["squared_error"] == pytest.approx(test["squared_error"])


# ── faiss ────────────────────────────────────────────────────────────────────────────────────────


def quantiser(kind: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    chosen = {"stages": 3, "options": 4, "kind": kind, "loss": MSE, **settings}
    return Faiss(DataSpec("points", (VALUES,)), **chosen)


@pytest.mark.parametrize("kind", ["pq", "opq", "rq"])
def test_codes_and_reconstructions_are_those_of_faiss(kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    units = torch.from_numpy((drawn(400) - 5) / 3)
    one = quantiser(kind, beam=4)
    one.fit(units)
    vectors = units.numpy()
    if kind == "rq":
        theirs = faiss.ResidualQuantizer(VALUES, 3, 2)
        theirs.max_beam_size, theirs.is_trained = 4, True
        faiss.copy_array_to_vector(one.codebooks.detach().numpy().ravel(), theirs.codebooks)
        theirs.compute_codebook_tables()
    else:
        theirs = faiss.ProductQuantizer(VALUES, 3, 2)
        faiss.copy_array_to_vector(one.codebooks.detach().numpy().ravel(), theirs.centroids)
        vectors = vectors if kind == "pq" else vectors @ one.rotation.numpy().T
    decoded = theirs.decode(theirs.compute_codes(np.ascontiguousarray(vectors)))
    decoded = decoded if kind != "opq" else decoded @ one.rotation.numpy()
    with torch.no_grad():
        ours = one.decode(one.encode(units))
    assert np.allclose(ours.numpy(), decoded, atol=1e-5)
    assert (ours - units).square().mean() < 0.8


def test_a_wider_beam_finds_codes_as_good_as_the_best_of_all() -> None:
    one = quantiser("rq", beam=64)
    with torch.no_grad():
        one.codebooks.normal_()
        units = torch.randn(20, VALUES)
        every = torch.cartesian_prod(*[torch.arange(4)] * 3)
        assert torch.equal(one.encode(units), every[torch.cdist(units, one.decode(every)).argmin(1)])


UNFIT = [
    ({"kind": "pq", "stages": 4}, "splits an example into 4 parts, and it has 6 values"),
    ({"kind": "rq", "options": 6}, "needs a power of 2. Use 4 or 8"),
    ({"kind": "rq", "loss": Gaussian}, "Use images, points or signals, and `loss: mse`"),
]


@pytest.mark.parametrize(("settings", "expected"), UNFIT)
def test_what_faiss_cannot_quantise_is_said(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(expected)):
        quantiser(**settings)


def test_without_faiss_the_objective_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.models.faiss.find_spec", lambda name: None)
    with pytest.raises(VqtkError, match=r"pip install 'vqtk\[vectors\]'"):
        Fitting(quantiser("rq"), lambda name: None)
    with pytest.raises(ShapeError, match="is not fitted by faiss"):
        Fitting(torch.nn.Linear(1, 1), lambda name: None)  # type: ignore[arg-type]


FAISS = ["model={name: faiss, kind: rq, stages: 3, options: 4, loss: mse}", "train.objective=fitting", "data.batch=40"]
ONCE = ["train.updates=1", "train.schedule={name: linear, final: 0}"]


def test_a_run_of_faiss_is_what_faiss_fitted_and_is_compared_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    folder(tmp_path / "data")
    (tmp_path / "small.yaml").write_text(RECIPE.replace("PATH", "data"))
    said = vqtk_main(monkeypatch, "run", "small.yaml", *FAISS[:2], *ONCE, "data.batch=2", "--device", "cpu")
    assert said == 2
    assert "Raise data.batch" in capsys.readouterr().err
    for name, settings in {"faiss": [*FAISS, *ONCE], "qinco": ["data.batch=8"]}.items():
        command = ["run", "small.yaml", *settings, f"name={name}", "--out", "runs", "--device", "cpu"]
        assert vqtk_main(monkeypatch, *command) == 0
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "compare", "runs", "--metric", "squared_error", "--unequal") == 0
    assert "faiss" in capsys.readouterr().out
    (run,) = Path("runs/faiss").iterdir()
    fitted, _ = load_weights(weights_of(run))
    units = of(tmp_path / "data").load(tmp_path).train[torch.arange(40)]
    # The step of rate 0 left each codeword of the first book the mean of the vectors that are nearest to it.
    book = fitted.codebooks[0].detach()
    nearest = torch.cdist(units, book).argmin(1)
    assert torch.allclose(units[nearest == 0].mean(0), book[0], atol=1e-4)
    assert fitted.fitted


# ── pre-selection ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [1, 3])
def test_with_all_candidates_pre_selection_is_the_exact_beam_search(width: int, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        RECIPE.replace("PATH", "none").replace("hidden: 4", "hidden: 4, zero_last: false")
    )
    model = vqtk.build(tmp_path / "small.yaml").double()
    units = torch.randn(30, VALUES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = Beam(width=width)(model, units)
    assert torch.equal(Preselect(candidates=4, width=width)(model, units), exact)
    few = Preselect(candidates=2, width=width)(model, units)
    assert 0.5 < (few == exact).double().mean() <= 1


def test_pre_selection_computes_only_the_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE.replace("PATH", "none"))
    model = vqtk.build(tmp_path / "small.yaml")
    monkeypatch.setattr(QINCo, "propose", lambda *_: pytest.fail("all deltas were computed"))
    assert Preselect(candidates=2, width=2)(model, torch.randn(5, VALUES)).shape == (5, 3)
