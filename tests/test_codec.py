"""Files of codes: coders against closed forms, files that were cut or damaged, and the commands."""

from __future__ import annotations

import json
import math
import shutil
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vqtk
from tests.running import TINY, vqtk_main, without_data
from vqtk.codec import CodeFile, CodeWriter, bd_rate, compress, decompress, stream
from vqtk.coders import Coder, coder_of, quantised
from vqtk.errors import CheckpointError, DataError, VqtkError
from vqtk.io.weights import save_weights
from vqtk.models import Model, integer_prior
from vqtk.recipe.recipe import Recipe, load_recipe
from vqtk.sampling.prior import Markov, fit_markov

RESIDUAL_VQ = """
name: tiny
data: {name: mnist, batch: 8}
model: {name: residual_vq, stages: 3, options: 5, loss: mse, width: 8, code_width: 4, blocks: 1, prior: autoregressive}
train: {objective: quantisation, updates: 4}
"""


def build(folder: Path, recipe: str = TINY) -> tuple[Model, Recipe]:
    (folder / "tiny.yaml").write_text(recipe)
    loaded = load_recipe(folder / "tiny.yaml")
    model = vqtk.build(folder / "tiny.yaml")
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=g)
    return model.eval(), loaded


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Recipe]:
    return build(tmp_path_factory.mktemp("codec"))


@pytest.fixture(scope="module")
def own_prior(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return build(tmp_path_factory.mktemp("codec"), RESIDUAL_VQ)[0]


def skewed(n: int, stages: int, options: int) -> Tensor:
    """Codes of which low ones are likelier, each stage near the one before."""
    g = torch.Generator().manual_seed(1)
    first = torch.multinomial(torch.arange(options, 0, -1).float() ** 2, n, replacement=True, generator=g)
    steps = torch.multinomial(torch.tensor([0.7, 0.3]), n * stages, replacement=True, generator=g).view(n, stages)
    return (first[:, None] + steps.cumsum(1)) % options


def coder(name: str, model: Model, codes: Tensor) -> Coder:
    return coder_of(name, model, fitted=lambda: fit_markov(codes, model.options))


def digits(n: int) -> Iterator[Tensor]:
    g = torch.Generator().manual_seed(2)
    return iter(torch.randint(256, (n, 1, 28, 28), generator=g, dtype=torch.uint8))


# ── coders ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["packed", "uniform", "frequencies", "markov"])
def test_any_prefix_of_stages_is_decoded_from_bytes_within_a_percent_of_the_priors_entropy(
    name: str, tiny: tuple[Model, Recipe]
) -> None:
    codes = skewed(6000, 3, 4)
    parts = (made := coder(name, tiny[0], codes)).encode(codes)
    again = coder_of(name, tiny[0], tables=made.tables)
    for stages in (1, 2, 3):
        assert torch.equal(again.decode(parts[:stages], len(codes)), codes[:, :stages])
    assert 8 * sum(map(len, parts)) == pytest.approx(made.nats(codes) / math.log(2), rel=0.01)


def test_coders_spend_what_the_prior_says(tiny: tuple[Model, Recipe]) -> None:
    codes = skewed(3000, 3, 4)
    markov = fit_markov(codes, 4)
    assert coder("markov", tiny[0], codes).nats(codes) == pytest.approx(float(markov.nats(codes).sum()), rel=1e-3)
    assert coder("uniform", tiny[0], codes).nats(codes) == pytest.approx(3 * 3000 * math.log(4))
    counts = torch.stack([torch.bincount(code, minlength=4) for code in codes.unbind(1)]).double() / 3000
    entropy = -(counts * counts.log()).sum() * 3000
    assert coder("frequencies", tiny[0], codes).nats(codes) == pytest.approx(float(entropy), rel=0.01)


def test_options_that_are_no_power_of_two_cost_a_fraction_of_a_bit_less_by_the_uniform_prior(own_prior: Model) -> None:
    codes = skewed(4000, 3, 5)
    sizes = [sum(map(len, coder_of(name, own_prior).encode(codes))) for name in ("packed", "uniform")]
    assert sizes[0] == 3 * 4000 * 3 // 8
    assert sizes[1] == pytest.approx(3 * 4000 * math.log2(5) / 8, rel=0.01)


def test_the_networks_prior_in_whole_numbers_is_that_of_the_network(own_prior: Model) -> None:
    codes = skewed(500, 3, 5)
    exact = coder_of("autoregressive", own_prior)
    assert torch.equal(exact.decode(exact.encode(codes), 500), codes)
    with torch.no_grad():
        expected = float(own_prior.code_nats(codes).sum())  # type: ignore[operator]
    assert exact.nats(codes) == pytest.approx(expected, rel=1e-3)


def test_the_networks_prior_does_not_depend_on_how_many_codes_are_computed_at_once(own_prior: Model) -> None:
    codes, prior = skewed(64, 3, 5), integer_prior(own_prior, total=1 << 16)

    def frequencies(some: Tensor) -> Tensor:
        walk, found = prior.walk(len(some)), []
        found.append(next(walk))
        found += [walk.send(code) for code in some[:, :2].unbind(1)]
        return torch.stack(found, 1)

    every = frequencies(codes)
    assert (every.sum(2) == 1 << 16).all()
    assert torch.equal(every, torch.cat([frequencies(one) for one in codes.split(7)]))


def test_weights_too_large_to_sum_exactly_are_refused(tmp_path: Path) -> None:
    model = build(tmp_path, RESIDUAL_VQ)[0]
    with torch.no_grad():
        model.prior.codes.gru.weight_hh_l0 *= 1e9  # type: ignore[union-attr]
    with pytest.raises(VqtkError, match="too large to compute with exactly"):
        coder_of("autoregressive", model)


def test_the_bytes_of_known_frequencies_stay_as_they_are(tiny: tuple[Model, Recipe]) -> None:
    """A version of constriction that codes otherwise could not read older files."""
    rows = torch.tensor([[8, 4, 3, 1], [1, 8, 4, 3], [3, 1, 8, 4], [4, 3, 1, 8]]).double() / 16
    parts = coder_of("markov", tiny[0], fitted=lambda: Markov(rows[0].log(), rows.expand(2, 4, 4).log())).encode(
        torch.arange(60).view(20, 3) ** 2 % 7 % 4
    )
    assert [part.hex() for part in parts] == GOLDEN


GOLDEN = [
    "a1a90f6d5bb96e44",
    "3328b091a5d04dc7",
    "7810b501bbcee997",
]


def test_frequencies_sum_to_the_total_and_leave_none_out() -> None:
    rows = quantised(torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64), 1 << 16)
    assert rows.sum(1).tolist() == [1 << 16] * 2
    assert rows[0].tolist() == [1, (1 << 16) - 2, 1]


def test_what_has_no_such_prior_or_lacks_the_extra_says_so(
    tiny: tuple[Model, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VqtkError, match=r"this model .VQDraw. has none\. The models vqvae and residual_vq have one"):
        coder_of("autoregressive", tiny[0])
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(VqtkError, match=r"pip install 'vqtk\[codec\]'"):
        coder_of("uniform", tiny[0])


# ── files ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def written(tiny: tuple[Model, Recipe], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A file of 300 codes in blocks of 64, and the codes."""
    path = tmp_path_factory.mktemp("codec") / "codes.vqd"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BITS", 128)
        compress(tiny[0], digits(300), path, names=[f"d{i}.png" for i in range(300)])
    with torch.no_grad():
        return path, tiny[0].encode(tiny[0].data.normalise(torch.stack(list(digits(300)))))


def test_what_is_decompressed_is_what_encoding_and_decoding_give(
    tiny: tuple[Model, Recipe], written: tuple[Path, Tensor]
) -> None:
    model, (path, codes) = tiny[0], written
    found = list(decompress(model, path))
    assert [name for names, _ in found for name in names] == [f"d{i}.png" for i in range(300)]
    for stages in (1, 2, 3):
        with torch.no_grad():
            expected = model.loss.show(model.decode(codes[:, :stages]))
        torch.testing.assert_close(torch.cat([shown for _, shown in decompress(model, path, stages=stages)]), expected)
    file = CodeFile(path)
    read = torch.cat([some for _, some in file.blocks(coder_of("packed", model), 3)])
    assert torch.equal(read, codes)
    assert file.shares.total == path.stat().st_size
    assert file.shares.stages == [300 * 2 / 8] * 3


def test_a_file_cut_anywhere_decodes_to_its_whole_stages_or_is_refused(
    tiny: tuple[Model, Recipe], written: tuple[Path, Tensor], tmp_path: Path
) -> None:
    model, (path, codes) = tiny[0], written
    data, shares = path.read_bytes(), CodeFile(path).shares
    ends = [shares.total - shares.payload + sum(shares.stages[: stage + 1]) for stage in range(3)]
    draws = Random(0)
    cut = tmp_path / "cut.vqd"
    for size in [*(draws.randrange(len(data)) for _ in range(20)), *ends, *(end - 1 for end in ends)]:
        cut.write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        if not whole:
            with pytest.raises(CheckpointError):
                CodeFile(cut)
            continue
        file = CodeFile(cut)
        assert file.whole == whole
        file.verify(whole)
        read = torch.cat([some for _, some in file.blocks(coder_of("packed", model), whole)])
        assert torch.equal(read, codes[:, :whole])


def test_a_file_with_any_flipped_bit_is_refused(
    tiny: tuple[Model, Recipe], written: tuple[Path, Tensor], tmp_path: Path
) -> None:
    data, draws, path = written[0].read_bytes(), Random(1), tmp_path / "damaged.vqd"
    for place in [*range(12), *(draws.randrange(len(data)) for _ in range(60))]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as refused:
            decompress(tiny[0], path)
        assert str(refused.value).count("\n") == 0
    path.write_bytes(data + b"x")
    with pytest.raises(CheckpointError, match="1 bytes follow its end"):
        CodeFile(path)


def test_stages_before_the_damage_can_be_decoded(
    tiny: tuple[Model, Recipe], written: tuple[Path, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "damaged.vqd"
    path.write_bytes(written[0].read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match=r"stage 3 of block 5 .* intact: --stages 2\."):
        decompress(tiny[0], path)
    assert sum(len(shown) for _, shown in decompress(tiny[0], path, stages=2)) == 300


def test_a_header_that_claims_too_much_is_refused_before_it_costs_memory(tmp_path: Path) -> None:
    facts = {"model": "0" * 64, "kind": "image", "shape": [1, 2, 2], "stages": 10_000, "options": 4, "prior": "packed"}
    path = tmp_path / "hostile.vqd"
    for claims in ({"count": 1 << 40, "block": 1}, {"count": 9, "block": 1 << 15}, {"count": 1, "block": 1}):
        header = json.dumps({**facts, **claims, "tables": 1 << 60, "named": True, "array": False}).encode()
        path.write_bytes(stream.MAGIC + struct.pack("<I", len(header)) + header)
        with pytest.raises(CheckpointError, match="is damaged"):
            CodeFile(path)


def test_another_model_is_refused(tiny: tuple[Model, Recipe], written: tuple[Path, Tensor], own_prior: Model) -> None:
    with pytest.raises(CheckpointError, match="these codes are of another model"):
        decompress(own_prior, written[0])
    with pytest.raises(CheckpointError, match=r"4 stages: the file holds 3\. Give --stages 3 or less"):
        decompress(tiny[0], written[0], stages=4)


def test_an_end_of_the_examples_by_an_error_leaves_no_file(tiny: tuple[Model, Recipe], tmp_path: Path) -> None:
    def broken() -> Iterator[Tensor]:
        yield from digits(3)
        raise DataError("the fourth is damaged")

    with pytest.raises(DataError, match="the fourth"):
        compress(tiny[0], broken(), tmp_path / "codes.vqd")
    with pytest.raises(VqtkError, match="no examples"):
        compress(tiny[0], iter(()), tmp_path / "codes.vqd")
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_number_of_examples(tiny: tuple[Model, Recipe], tmp_path: Path) -> None:
    model, path = tiny[0], tmp_path / "codes.vqd"
    row = torch.zeros(1000, 3, dtype=torch.int64)

    def peak(blocks: int) -> int:
        tracemalloc.start()
        with CodeWriter(path, model, coder_of("packed", model), named=False) as writer:
            for _ in range(blocks):
                writer.add(row)
        assert sum(len(codes) for _, codes in CodeFile(path).blocks(writer.coder, 3)) == 1000 * blocks
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)
    assert peak(200) < 1.5 * peak(40)


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def weights(tiny: tuple[Model, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    without_data(monkeypatch, tmp_path)
    save_weights(tmp_path / "w.safetensors", *tiny)
    return tmp_path / "w.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, one of another size and format, in folders."""
    place = tmp_path / "images" / "sub"
    place.mkdir(parents=True)
    for index, image in enumerate(digits(4)):
        Image.fromarray(image[0].numpy()).save((place if index % 2 else place.parent) / f"{index}.png")
    Image.new("RGB", (60, 40), "red").save(place / "wide.jpg")
    return place.parent


def test_a_folder_is_compressed_and_read_back(
    folder: Path, weights: Path, tiny: tuple[Model, Recipe], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    codes, out = folder.parent / "x.vqd", folder.parent / "out"
    arguments = ["-m", weights, "-o", codes, "--search", "beam:2", "--prior", "frequencies", "--prior-items", "50"]
    assert vqtk_main(monkeypatch, "compress", folder, *arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == codes.stat().st_size
    assert told["examples"] == 5
    assert CodeFile(codes).facts.search == "beam:2"
    assert vqtk_main(monkeypatch, "decompress", codes, "-m", weights, "-o", out, "--stages", "2") == 0
    assert capsys.readouterr().out.strip().endswith("5 examples, 2 of 3 stages")
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert found == ["0.png", "2.png", "sub/1.png", "sub/3.png", "sub/wide.jpg.png"]
    model, pixels = tiny[0], torch.from_numpy(np.array(Image.open(folder / "0.png")))[None, None]
    from vqtk.searches.beam import Beam

    with torch.no_grad():
        code = model.encode(model.data.normalise(pixels), search=Beam(width=2))  # type: ignore[call-arg]
        expected = (model.data.pixels(model.decode(code[:, :2])) * 255).round()
    np.testing.assert_allclose(np.asarray(Image.open(out / "0.png"), float), expected[0, 0].numpy(), atol=1)
    before = codes.read_bytes(), (out / "0.png").read_bytes()
    again = ["compress", folder, "-m", weights, "-o", codes], ["decompress", codes, "-m", weights, "-o", out]
    for command, what in zip(again, ("this file exists", "this folder has files"), strict=True):
        assert vqtk_main(monkeypatch, *command) == 2
        assert f"{what}. Choose another path with --out, or give --force to replace " in capsys.readouterr().err
    assert before == (codes.read_bytes(), (out / "0.png").read_bytes())
    for command in again:
        assert vqtk_main(monkeypatch, *command, "--force") == 0
    assert codes.read_bytes() != before[0]
    assert (out / "0.png").read_bytes() != before[1]


def test_arrays_come_back_as_an_array_and_a_cut_file_with_a_warning(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    np.save(tmp_path / "d.npy", torch.stack(list(digits(6))).numpy())
    codes, out = tmp_path / "x.vqd", tmp_path / "out"
    assert vqtk_main(monkeypatch, "compress", tmp_path / "d.npy", "-m", weights, "-o", codes) == 0
    codes.write_bytes(codes.read_bytes()[:-1])
    assert vqtk_main(monkeypatch, "decompress", codes, "-m", weights, "-o", out) == 0
    assert "warning: " in (said := capsys.readouterr()).err
    assert "2 of its 3 stages are whole" in said.err
    assert np.load(out / "decoded.npy").shape == (6, 1, 28, 28)


def test_mistakes_are_one_paragraph(folder: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    codes = folder.parent / "x.vqd"

    def refusal(*arguments: str | Path) -> str:
        assert vqtk_main(monkeypatch, *arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return str(said)

    base = ("-m", weights, "-o", codes)
    assert "there is no such file" in refusal("compress", folder / "none", *base)
    shutil.copy(folder / "0.png", folder / "sub" / "0.png")
    assert "two files have the name 0.png" in refusal("compress", folder / "0.png", folder / "sub" / "0.png", *base)
    (folder / "sub" / "1.png").write_bytes(b"no image")
    assert "cannot be read as an image" in refusal("compress", folder, *base)
    np.save(folder.parent / "d.npy", np.zeros((3, 28, 28)))
    assert "array of float64 of shape (3, 28, 28)" in refusal("compress", folder.parent / "d.npy", *base)
    assert "with --prior frequencies or --prior markov" in refusal("compress", folder, *base, "--prior-items", "4")
    assert "not a file of codes" in refusal("decompress", folder / "0.png", "-m", weights, "-o", folder / "out")
    assert not codes.exists()


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a\\b.png", "a/../../b.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str, tiny: tuple[Model, Recipe], tmp_path: Path) -> None:
    from vqtk.datasets import write_examples

    decoded = [([name], torch.zeros(1, 1, 28, 28))]
    with pytest.raises(DataError, match="leads out of"):
        write_examples(decoded, tiny[0].data, tmp_path / "in" / "out", count=1, array=False)
    assert not list(tmp_path.rglob("*.png"))


# ── measurements ─────────────────────────────────────────────────────────────────────────────────


def test_bd_rate_of_a_curve_with_half_the_bits_is_minus_fifty_percent() -> None:
    curve = [(10.0, 20.0), (20.0, 25.0), (40.0, 28.0), (80.0, 33.0)]
    assert bd_rate([(rate / 2, psnr) for rate, psnr in curve], curve) == pytest.approx(-50)
    assert bd_rate(curve, [(rate, psnr + 50) for rate, psnr in curve]) is None
    assert bd_rate(curve, [*curve, (100.0, 30.0)]) == pytest.approx(0, abs=1e-9)


def test_eval_reports_the_files_and_the_image_formats(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("vqtk.codec.measure.QUALITIES", (10, 90))
    monkeypatch.setattr("vqtk.cli.sampling.prior_for", lambda opened, **_: Fitted)
    assert vqtk_main(monkeypatch, "eval", weights, "--items", "8", "--codec", "--json") == 0
    found = json.loads(capsys.readouterr().out)["codec"]
    packed = found["coders"][0]
    assert packed["payload_bits_per_example"] == packed["entropy_bits_per_example"] == 6
    assert packed["stages"][-1]["bytes"] * 8 == pytest.approx(packed["bits_per_example"])
    assert {one["name"] for one in found["formats"]} >= {"JPEG"}
    assert "Images of 28 pixels are not a fair ground" in found["note"]
    assert vqtk_main(monkeypatch, "eval", weights, "--items", "8", "--codec") == 0
    assert "BD-rate against JPEG" in capsys.readouterr().out


class Fitted:
    prior = Markov(torch.full((4,), 0.25).log(), torch.full((2, 4, 4), 0.25).log())
