"""Guided decoding: codes chosen by what is seen of an item, or by any other score."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from tests.parity import ROOT
from tests.refusing import Refusing
from tests.running import TINY, vqtk_main, without_data
from vqtk.datasets._base import Splits
from vqtk.datasets._split import Held
from vqtk.errors import DataError, RecipeError
from vqtk.io.weights import save_weights
from vqtk.losses.mse import MSE
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.refiners._base import Refiner
from vqtk.sampling.guided import Answers, GuidedRequest, errors, guide_of, sample_guided
from vqtk.searches.greedy import Greedy
from vqtk.selectors.argmin import Argmin

COLOURS = DataSpec("image", (3, 4, 4), mean=0.5, std=0.5)
SMALL = ["model.stages=2", "model.options=4", "model.refiner.blocks=[]"]
PLUGIN = '''
from vqtk.guides._base import Guide
from vqtk.registry import guides


@guides.register("bright")
class Bright(Guide):
    """The darkness of the middle, times `weight`."""

    observes = False

    def __init__(self, model, *, weight: float = 1.0):
        super().__init__(model)
        self.weight = weight

    def __call__(self, proposals, observed):
        return -self.weight * proposals.flatten(2).mean(2)
'''


class Remembering(Refiner):
    """A refiner whose deltas depend on the stage, the reconstruction, and on all reconstructions before it."""

    def __init__(self, channels: int, size: tuple[int, ...], stages: int, options: int, out_channels: int):
        super().__init__()
        self.out = nn.Parameter(torch.randn(stages, options, out_channels, *size))
        self.size = size

    def initial_state(self, like: Tensor) -> Tensor:
        return torch.ones_like(like)

    def propose(self, x: Tensor, stage: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.out[stage] * (1 + 0.3 * torch.sin(x + 2 * state))[:, None], state

    def advance(self, carry: Tensor, codes: Tensor, x: Tensor) -> Tensor:
        return 0.5 * carry + x


@pytest.fixture(scope="module")
def model() -> VQDraw:
    torch.manual_seed(0)
    made = VQDraw(
        COLOURS, stages=4, options=4, loss=MSE, condition=None, refiner=Remembering, segment=2, selector=Argmin,
        search=Greedy,
    )  # fmt: skip
    with torch.no_grad():
        made.bias.normal_()
    return made.double().eval()


@pytest.fixture(scope="module")
def targets() -> Tensor:
    return torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def answered(model: Any, targets: Tensor, name: str, *settings: str, **asked: Any) -> Answers:
    guide = guide_of(model, name, settings)
    return sample_guided(model, guide, guide.observed(targets), asked=GuidedRequest(**asked), items=range(len(targets)))


def textbook(model: Any, targets: Tensor, score: Any) -> Tensor:
    """Greedy codes by the public words of a model alone."""
    codes = torch.empty(len(targets), 0, dtype=torch.int64)
    for _ in range(model.stages):
        best = score(model.proposals(codes), targets[:, None]).argmin(1)
        codes = torch.cat([codes, best[:, None]], 1)
    return codes


def means_of_squares(images: Tensor) -> Tensor:
    return images.unflatten(-1, (2, 2)).mean(-1).unflatten(-2, (2, 2)).mean(-2)


def luma(images: Tensor) -> Tensor:
    return 0.299 * images[..., 0, :, :] + 0.587 * images[..., 1, :, :] + 0.114 * images[..., 2, :, :]


# ── guides ───────────────────────────────────────────────────────────────────────────────────────


def test_a_mask_that_hides_nothing_gives_the_codes_of_encoding(model: VQDraw, targets: Tensor) -> None:
    found = answered(model, targets, "mask", "fraction=0")
    assert torch.equal(found.codes[:, 0], model.encode(targets))
    assert errors(guide_of(model, "mask", ["fraction=0"]), targets, found.shown) == {}


@pytest.mark.parametrize(
    ("guide", "score"),
    [
        (["mask", "hide=right"], lambda p, t: (p - t)[..., :2].square().flatten(2).mean(2)),
        (["mask", "hide=top"], lambda p, t: (p - t)[..., 2:, :].square().flatten(2).mean(2)),
        (["lowres", "factor=2"], lambda p, t: means_of_squares(p - t).square().flatten(2).mean(2)),
        (["grey"], lambda p, t: luma(p - t).square().flatten(2).mean(2)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_first_answer_is_a_textbook_walk_by_what_is_seen(
    model: VQDraw, targets: Tensor, guide: list[str], score: Any
) -> None:
    found = answered(model, targets, *guide, answers=2)
    codes = textbook(model, targets, score)
    assert torch.equal(found.codes[:, 0], codes)
    shown = model.decode(codes).detach()
    assert_close(found.shown[:, 0], shown)
    assert_close(found.losses[:, 0], score(shown[:, None], targets[:, None])[:, 0])


def test_hidden_pixels_have_no_influence_and_seen_ones_have(model: VQDraw, targets: Tensor) -> None:
    hidden, seen = targets.clone(), targets.clone()
    hidden[:, :, 1:3, 1:3] = 100
    seen[:, :, 0] *= -1
    asked = {"answers": 3, "beam": 2}
    before = answered(model, targets, "mask", "hide=centre", "fraction=0.25", **asked)
    after = answered(model, hidden, "mask", "hide=centre", "fraction=0.25", **asked)
    other = answered(model, seen, "mask", "hide=centre", "fraction=0.25", **asked)
    assert torch.equal(before.codes, after.codes)
    assert torch.equal(before.losses, after.losses)
    assert not torch.equal(before.codes, other.codes)


def test_a_mask_hides_the_part_that_it_says(model: VQDraw, tmp_path: Path) -> None:
    hidden = {side: guide_of(model, "mask", [f"hide={side}"]).hidden[0] for side in ("left", "bottom", "random")}
    assert hidden["left"].tolist() == [[True, True, False, False]] * 4
    assert hidden["bottom"].tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    assert hidden["random"].sum() == 8
    assert not torch.equal(hidden["random"], guide_of(model, "mask", ["hide=random", "seed=1"]).hidden[0])
    white = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    Image.fromarray(white.numpy().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    drawn = guide_of(model, "mask", [f"hide={tmp_path / 'mask.png'}"])
    assert torch.equal(drawn.hidden, white.expand(3, -1, -1))


def test_a_label_guide_leads_to_items_of_its_class(model: VQDraw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtk.guides.label.EPOCHS", 50)
    bright = torch.arange(200) % 2
    noise = torch.randint(0, 56, (200, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    images = (bright[:, None, None, None] * 200 + noise).to(torch.uint8)
    split = Held(images, bright)
    brightness = []
    for wanted in (0, 1):
        guide = guide_of(model, "label", [f"wanted={wanted}"])
        guide.prepare(lambda: Splits(split, split, "made up"), seed=0)
        found = sample_guided(model, guide, torch.empty(3, 0), asked=GuidedRequest(answers=2), items=range(3))
        assert found.losses.max() < 0.1
        brightness.append(found.shown.mean())
    random = model.decode(model.random_codes(200, generator=torch.Generator().manual_seed(0)))
    assert brightness[0] < random.mean() < brightness[1]
    with pytest.raises(DataError, match="expected a class of these data: 0 to 1"):
        guide_of(model, "label", ["wanted=2"]).prepare(lambda: Splits(split, split, "made up"), seed=0)
    with pytest.raises(DataError, match="the guide `label` trains a classifier on labels"):
        guide.prepare(lambda: Splits(Held(images), split, "made up"), seed=0)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


def test_the_first_answer_is_greedy_however_many_there_are(model: VQDraw, targets: Tensor) -> None:
    alone, several = (answered(model, targets, "mask", answers=answers, temperature=1) for answers in (1, 6))
    assert torch.equal(alone.codes[:, 0], several.codes[:, 0])
    assert len({tuple(codes) for codes in several.codes[0].tolist()}) > 1


def test_a_beam_as_wide_as_the_tree_finds_the_best_of_all_codes(model: VQDraw, targets: Tensor) -> None:
    every = torch.tensor(list(itertools.product(range(4), repeat=4)))
    guide = guide_of(model, "mask")
    grid = guide(model.decode(every).detach().expand(5, -1, -1, -1, -1), guide.observed(targets))
    found = answered(model, targets, "mask", beam=64)
    assert torch.equal(found.codes[:, 0], every[grid.argmin(1)])
    assert_close(found.losses[:, 0], grid.min(1).values)
    assert (answered(model, targets, "mask", beam=3).losses <= answered(model, targets, "mask").losses).all()


def test_every_answer_is_what_its_codes_decode_to(model: VQDraw, targets: Tensor) -> None:
    found = answered(model, targets, "mask", answers=3, beam=3, temperature=0.5)
    assert_close(found.shown.flatten(0, 1), model.decode(found.codes.flatten(0, 1)).detach())
    short = answered(model, targets, "mask", stages=2)
    assert_close(short.shown[:, 0], model.decode(short.codes[:, 0]).detach())
    assert short.codes.shape == (5, 1, 2)


def test_a_seed_gives_an_item_the_same_answers_in_any_company(model: VQDraw, targets: Tensor) -> None:
    guide, asked = guide_of(model, "mask"), GuidedRequest(answers=4, temperature=1)
    observed = guide.observed(targets)
    together = sample_guided(model, guide, observed, asked=asked, items=range(5))
    alone = sample_guided(model, guide, observed[3:4], asked=GuidedRequest(answers=2, temperature=1), items=[3])
    assert torch.equal(alone.codes[0], together.codes[3, :2])
    other = sample_guided(model, guide, observed, asked=GuidedRequest(answers=4, temperature=1, seed=1), items=range(5))
    assert not torch.equal(other.codes, together.codes)


def test_options_are_drawn_as_the_temperature_says(model: VQDraw, targets: Tensor) -> None:
    guide = guide_of(model, "mask")
    grid = guide(model.proposals(torch.empty(1, 0, dtype=torch.int64)), guide.observed(targets[:1]))[0]
    found = answered(model, targets[:1], "mask", answers=3001, temperature=0.5, stages=1)
    frequencies = torch.bincount(found.codes[0, 1:, 0], minlength=4) / 3000
    expected = torch.softmax(-(grid - grid.min()) / (0.5 * (grid.mean() - grid.min())), 0)
    assert_close(frequencies, expected.float(), atol=0.03, rtol=0)


def test_errors_are_those_of_the_hidden_pixels(model: VQDraw, targets: Tensor) -> None:
    found = answered(model, targets, "mask", "hide=left", answers=2)
    apart = found.shown - targets[:, None]
    known = errors(guide_of(model, "mask", ["hide=left"]), targets, found.shown)
    assert_close(known["mse"], apart[..., :2].square().mean((2, 3, 4)))
    pixels = [(values * 0.5 + 0.5).clamp(0, 1) for values in (found.shown, targets[:, None])]
    assert_close(known["mse_pixels"], (pixels[0] - pixels[1])[..., :2].square().mean((2, 3, 4)))


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def saved(folder: Path, name: str, *overrides: str) -> Path:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides)
    path = folder / f"tiny_{name}.safetensors"
    model = build_model(recipe)
    torch.nn.init.normal_(model.bias, generator=torch.Generator().manual_seed(0))
    save_weights(path, model, recipe)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved(tmp_path_factory.mktemp("complete"), "mnist", *SMALL))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_data(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusing:
    return Refusing(monkeypatch, capsys)


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert vqtk_main(monkeypatch, "complete", *arguments, "--device", "cpu") == 0
    return capsys.readouterr().out


def test_the_command_draws_a_row_an_item_and_tells_the_error(
    digits: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = told(monkeypatch, capsys, digits, "mask", "hide=left", "-n", "3", "--answers", "2", "--bare")
    assert out.startswith(
        "tiny_mnist_complete_mask.png\nMean squared error of the hidden part, 3 examples: first answer "
    )
    with Image.open("tiny_mnist_complete_mask.png") as picture:
        assert picture.size == (4 * 152, 4 * 92)
        cell = np.asarray(picture.convert("RGB"))[8:120, 128:240]
    assert len(np.unique(cell[:, :56].reshape(-1, 3), axis=0)) == 1
    found = json.loads(told(monkeypatch, capsys, digits, "lowres", "--item", "7", "--answers", "2", "--json"))
    assert found["items"] == [7]
    assert np.shape(found["codes"]) == (1, 2, 2)
    assert np.shape(found["losses"]) == np.shape(found["hidden_mse"]) == np.shape(found["hidden_mse_pixels"]) == (1, 2)
    assert np.shape(found["hidden_mse_of_mean"]) == (1,)


@pytest.fixture
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget, after the test, the plugins that a command has loaded."""
    from vqtk.plugin import loading as plugin
    from vqtk.registry import guides

    monkeypatch.setattr(guides, "_entries", guides.snapshot())
    monkeypatch.setattr(plugin, "_used", [])


@pytest.mark.usefixtures("_as_before")
def test_a_guide_of_ones_own_comes_from_a_plugin(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bright.py").write_text(PLUGIN)
    arguments = [digits, "bright", "weight=2.0", "--plugin", "bright.py", "-n", "2", "--answers", "1", "--json"]
    found = json.loads(told(monkeypatch, capsys, *arguments))
    assert found["codes"][0] == found["codes"][1]
    assert "hidden_mse" not in found


@pytest.mark.usefixtures("_as_before")
def test_the_page_about_it_says_what_works(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "complete.md").read_text(encoding="utf-8")
    plugin, program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "thin.py").write_text(plugin)
    assert "vqtk complete mnist thin weight=0.2 --plugin thin.py" in page
    arguments = [digits, "thin", "--plugin", "thin.py", "-n", "1", "--json"]
    thin, fat = (json.loads(told(monkeypatch, capsys, *arguments, f"weight={weight}")) for weight in (1e3, 0.0))
    assert thin["hidden_mse"] != fat["hidden_mse"]
    names: dict[str, Any] = {}
    exec(program.replace('"mnist"', repr(digits)), names)
    assert names["found"].shown.shape == (2, 4, 1, 28, 28)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["maks"], ["guide: no guide is called 'maks'. Did you mean 'mask'?"]),
        (["mask", "hid=left"], ["setting 'hid=left': guide.hid: unknown key. Did you mean 'hide'?"]),
        (["mask", "fraction=half"], ["guide.fraction: expected a number ≥ 0 and ≤ 1, got 'half'"]),
        (["mask", "left"], ["setting 'left': expected a setting of the guide as key=value"]),
        (
            ["mask", "hide=rihgt"],
            ["hide is 'rihgt', and there is no such file. Did you mean 'right'? Expected "],
        ),
        (["mask", "fraction=1"], ["every pixel is hidden"]),
        (["mask", "hide=small.png"], ["small.png: an image of 5×6 pixels. Expected ", "of 28×28 pixels"]),
        (["mask", "hide=broken.png"], ["broken.png: cannot be read as an image"]),
        (["lowres", "factor=3"], ["`factor` is 3, and the images are 28×28 pixels", "2, 4, 7, 14, 28"]),
        (["grey"], ["grey guides models of colour images, and this model's have 1 channel"]),
        (["label"], ["`wanted` is missing"]),
        (["label", "wanted=10"], ["`wanted` is 10; expected a class of these data: 0 to 9."]),
        (["label", "wanted=1", "--item", "3"], ["--item: this guide observes no test examples"]),
        (["mask", "--stages", "3"], ["--stages 3: this model has 2 stages."]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused_in_one_paragraph(
    digits: str, refusing: Refusing, arguments: list[str], fragments: list[str]
) -> None:
    Image.new("L", (5, 6)).save("small.png")
    Path("broken.png").write_bytes(b"GIF89a")
    refusing.tells("complete", digits, *arguments, told=fragments)


def test_models_without_images_or_without_stages_are_refused(tmp_path: Path, refusing: Refusing) -> None:
    text = saved(tmp_path, "wikitext2", *SMALL, "model.segment=2", "data.length=8", "data.vocabulary=5")
    wanted = "Mask guides models of image data, and this model's data are text."
    refusing.tells("complete", str(text), "mask", told=[wanted])
    (tmp_path / "tiny.yaml").write_text(TINY)
    recipe = load_recipe(ROOT / "recipes" / "mnist_distill.yaml")
    with pytest.raises(RecipeError):
        guide_of(build_model(load_recipe(tmp_path / "tiny.yaml")), "mask", ["fraction=2"])
    distilled = build_model(recipe)
    with pytest.raises(Exception, match="predicts whole codes at once"):
        guide_of(distilled, "mask")
