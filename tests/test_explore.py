"""`vqtk explore`: answers of the model, requests that are refused, and the page in a browser."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from starlette.testclient import TestClient
from torch import Tensor
from torch.testing import assert_close

from tests.parity import ROOT
from tests.refusing import Refusing
from tests.running import vqtk_main
from tests.test_looking import RECIPES, built
from vqtk.errors import VqtkError
from vqtk.explore import explorer as module
from vqtk.explore.explorer import Explorer
from vqtk.explore.server import HEADERS, PAGE, app_of, listening
from vqtk.io.weights import save_weights
from vqtk.models import Model
from vqtk.models.vqdraw import VQDraw
from vqtk.nn.types import DataSpec
from vqtk.recipe.build import build_model
from vqtk.recipe.recipe import load_recipe
from vqtk.sampling.guided import GuidedRequest, guide_of, sample_guided

HOST = "127.0.0.1:8765"
IMAGE = torch.arange(784, dtype=torch.uint8).reshape(28, 28)
RIGHT = torch.arange(28).expand(28, 28) >= 14


class Whole(Model):
    """A model that decodes whole codes only."""

    def encode(self, target: Tensor) -> Tensor:
        raise NotImplementedError

    decode = trial = encode


def of_recipe(name: str, *overrides: str, device: str = "cpu") -> Any:
    return build_model(load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides), device=device)


def b64(values: Tensor) -> str:
    return base64.b64encode(bytes(values.to(torch.uint8).flatten().tolist())).decode()


def images(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8).reshape(-1, 28, 28)


@pytest.fixture(scope="module")
def model() -> VQDraw:
    made, _ = built("image")
    torch.manual_seed(0)
    torch.nn.init.normal_(made.bias, std=0.5)
    return made


@pytest.fixture(scope="module")
def client(model: VQDraw) -> TestClient:
    return TestClient(app_of(Explorer(model, "tiny")), base_url=f"http://{HOST}", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def ask(client: TestClient) -> Callable[..., Any]:
    def asked(path: str, **question: Any) -> Any:
        response = client.post(f"/api/{path}", json=question)
        assert response.status_code == 200, response.text
        return response.json()

    return asked


def as_shown(model: VQDraw, x: Tensor) -> Tensor:
    """Reconstructions as 8-bit images, by the model's public words."""
    return (model.data.pixels(model.loss.show(x.detach())) * 255).round().to(torch.uint8)[:, 0]


def mse(model: VQDraw, x: Tensor) -> Tensor:
    return (x - model.data.normalise(IMAGE)).square().flatten(-3).mean(-1)


def test_a_code_is_shown_after_every_stage(model: VQDraw, ask: Callable[..., Any]) -> None:
    found = ask("decode", codes=[3, 0, 2], image=b64(IMAGE))
    prefixes = [model.decode(torch.tensor([[3, 0, 2]])[:, :stages]).detach() for stages in range(4)]
    assert torch.equal(images(found["images"]), as_shown(model, torch.cat(prefixes)))
    assert_close(torch.tensor(found["losses"]), mse(model, torch.cat(prefixes)))
    assert ask("decode", codes=[])["losses"] is None


def test_options_are_the_models_proposals_in_the_order_asked_for(
    model: VQDraw, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    proposals = model.proposals(torch.tensor([[1]]))[0]
    order = mse(model, proposals).argsort()
    found = ask("options", codes=[1], image=b64(IMAGE), order="loss")
    assert (found["options"], found["best"]) == (order.tolist(), int(order[0]))
    assert torch.equal(images(found["images"]), as_shown(model, proposals[order]))
    assert_close(torch.tensor(found["losses"]), mse(model, proposals)[order])
    assert torch.equal(images(found["start"]), as_shown(model, model.decode(torch.tensor([[1]]))))
    monkeypatch.setattr(module, "PAGE_OPTIONS", 3)
    assert [ask("options", codes=[1], first=first)["options"] for first in (0, 3, 6)] == [[0, 1, 2], [3], []]


def test_candidates_are_the_best_of_all_codes(model: VQDraw, ask: Callable[..., Any]) -> None:
    found = ask("encode", image=b64(IMAGE), width=16)  # Wide enough to keep every prefix of two stages.
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    losses = mse(model, model.decode(every).detach())
    order = losses.argsort()[:16]
    assert found["codes"] == every[order].tolist()
    assert_close(torch.tensor(found["losses"]), losses[order])
    assert torch.equal(images(found["images"]), as_shown(model, model.decode(every[order])))


def test_a_painted_mask_completes_as_the_guide_does(model: VQDraw, ask: Callable[..., Any]) -> None:
    found = ask("complete", image=b64(IMAGE), hidden=b64(RIGHT), answers=3, seed=5)
    guide, target = guide_of(model, "mask", ["hide=right"]), model.data.normalise(IMAGE[None, None])
    expected = sample_guided(model, guide, target, asked=GuidedRequest(answers=3, seed=5), items=[0])
    assert found["codes"] == expected.codes[0].tolist()
    assert_close(torch.tensor(found["losses"]), expected.losses[0])
    changed = ask("complete", image=b64(torch.where(RIGHT, 7, IMAGE)), hidden=b64(RIGHT), answers=3, seed=5)
    assert changed == found, "what is hidden changes nothing"


def test_a_model_of_colours_gets_and_returns_its_channels_last() -> None:
    coloured = of_recipe("mnist", *RECIPES["image"][1], "data={name: image_folder, path: none, size: 8}").eval()
    torch.nn.init.normal_(coloured.bias, std=0.5)
    explorer = Explorer(coloured, "coloured")
    sent = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(0))
    codes = coloured.encode(coloured.data.normalise(sent.permute(2, 0, 1)[None].to(torch.uint8)))
    found = explorer.encode(module.EncodeQuestion(image=b64(sent), width=1))
    assert found["codes"] == codes.tolist()
    pixels = (coloured.data.pixels(coloured.decode(codes).detach()) * 255).round().to(torch.uint8)[0]
    assert base64.b64decode(found["images"]) == bytes(pixels.permute(1, 2, 0).flatten().tolist())


# ── what is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "question", "told"),
    [
        ("decode", "[", "question: Invalid JSON"),
        ("decode", "[" * 4000, "question: "),
        ("decode", "{}", "codes: Field required"),
        ("decode", '{"codes": [true]}', "codes.0: Input should be a valid integer"),
        ("decode", '{"codes": [1.5]}', "codes.0: Input should be a valid integer"),
        ("decode", '{"codes": [1], "more": 1}', "more: Extra inputs are not permitted"),
        ("decode", '{"codes": [-1]}', "codes: -1 given, expected options from 0 to 3"),
        ("decode", '{"codes": [99999999999999999999999]}', "expected options from 0 to 3"),
        ("decode", '{"codes": [0, 0, 0, 0]}', "codes: 4 given, expected at most 3"),
        ("options", '{"codes": [0, 0, 0]}', "codes: 3 given, expected at most 2"),
        ("options", '{"codes": [], "order": "<b>"}', "order: Input should be 'option' or 'loss'"),
        ("options", '{"codes": [], "first": -1}', "first: Input should be greater than or equal to 0"),
        ("encode", '{"image": "!"}', "image: expected base64"),
        ("encode", '{"image": "é"}', "image: expected base64"),
        ("encode", '{"image": "AAAA"}', "image: 3 bytes given, expected 784"),
        ("encode", f'{{"image": "{b64(IMAGE)}", "width": 33}}', "width: Input should be less than or equal to 32"),
        ("complete", f'{{"image": "{b64(IMAGE)}", "hidden": ""}}', "hidden: 0 bytes given, expected 784"),
        ("complete", f'{{"image": "{b64(IMAGE)}", "hidden": "{b64(IMAGE * 0 + 1)}"}}', "every pixel is hidden"),
        (
            "complete",
            f'{{"image": "{b64(IMAGE)}", "hidden": "{b64(RIGHT)}", "temperature": NaN}}',
            "temperature: Input should be a finite number",
        ),
    ],
)
def test_a_question_that_is_wrong_is_refused_in_one_line(
    path: str, question: str, told: str, client: TestClient
) -> None:
    response = client.post(f"/api/{path}", content=question, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert told in response.json()["error"]
    assert "\n" not in response.json()["error"]


def test_a_question_that_is_too_long_or_no_json_is_not_read(client: TestClient) -> None:
    long = client.post("/api/decode", content=b"[" * 10_000, headers={"Content-Type": "application/json"})
    assert (long.status_code, long.json()["error"]) == (413, "expected at most 7,256 bytes.")
    assert client.post("/api/decode", content='{"codes": []}').status_code == 415
    assert client.get("/api/decode").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8765"}, 200),
        ({"Host": "[::1]:8765"}, 200),
        ({"Host": "192.168.0.7:8765"}, 200),
        ({"Origin": f"http://{HOST}"}, 200),
        ({"Host": "evil.example:8765"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8765"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
    ],
)
def test_requests_of_other_pages_are_refused(headers: dict[str, str], status: int, client: TestClient) -> None:
    for response in (
        client.get("/api/model", headers=headers),
        client.get("/", headers=headers),
        client.post("/api/decode", json={"codes": []}, headers=headers),
    ):
        assert response.status_code == status
        assert all(response.headers[name] == value for name, value in HEADERS.items())


def test_the_page_is_served_and_nothing_else_is(client: TestClient) -> None:
    for name in ("", *(path.name for path in PAGE.iterdir())):
        response = client.get(f"/{name}")
        assert response.status_code == 200
        assert not re.findall(r"https?://|innerHTML|\beval\(|style=", response.text)
    for path in ("/server.py", "/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/api/", "/page"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("toy2d", [], "the data of this model are points of shape \\(2,\\)"),
        (RECIPES["text"][0], RECIPES["text"][1], "the data of this model are text of shape \\(30,\\)"),
        ("modelnet", RECIPES["voxels"][1], "the data of this model are voxels"),
        ("mnist", ["model.stages=3", "data={name: image_folder, path: none, size: 4096}"], "3 images of 4096×4096"),
    ],
)
def test_models_that_cannot_be_shown_are_refused(name: str, overrides: list[str], told: str) -> None:
    with pytest.raises(VqtkError, match=told):
        Explorer(of_recipe(name, *overrides, device="meta"), name)


def test_a_model_without_stages_is_refused() -> None:
    with pytest.raises(VqtkError, match=r"this model \(Whole\) decodes whole codes only"):
        Explorer(Whole(DataSpec("image", (1, 4, 4)), stages=2, options=2), "whole")


def test_a_busy_port_a_missing_model_and_a_missing_extra_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, recipe = built("image")
    save_weights(tmp_path / "tiny.safetensors", made, recipe)
    refusing = Refusing(monkeypatch, capsys)
    with listening("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        weights = str(tmp_path / "tiny.safetensors")
        refusing.tells("explore", weights, "--port", port, told=[f"port {port} of 127.0.0.1 is in use", "--port 0"])
    refusing.tells("explore", "nothing", told=["nothing: no such run or weights file"])
    refusing.tells("explore", weights, "--host", "no such host", told=["cannot serve on no such host"])
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "vqtk.explore.server")
    refusing.tells("explore", weights, told=["needs starlette", "pip install 'vqtk[explore]'"])


def test_the_command_serves_until_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, recipe = built("image")
    save_weights(tmp_path / "tiny.safetensors", made, recipe)

    def run(server: Any, sockets: list[socket.socket]) -> None:
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", run)
    assert vqtk_main(monkeypatch, "explore", tmp_path / "tiny.safetensors", "--port", "0", "--no-browser") == 0
    assert re.fullmatch(r"Exploring tiny at http://127.0.0.1:\d+/ \(stop with Ctrl-C\)\n", capsys.readouterr().out)


# ── in a browser ─────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(model: VQDraw, name: str, browser: Any) -> Iterator[str]:
    """The address of the page, from a server in a thread, which the browser leaves before the server stops."""
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app_of(Explorer(model, name)), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
            assert browser.get_log("browser") == []
        finally:
            browser.get("about:blank")
            server.should_exit = True
            thread.join()


@pytest.fixture
def served(model: VQDraw, browser: Any) -> Iterator[str]:
    with serving(model, "a <b>name</b>", browser) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield started
    started.quit()


class Page:
    """The page in a browser, as a person sees and touches it."""

    def __init__(self, browser: Any):
        self.browser = browser
        self.resize(390, 844)

    def resize(self, width: int, height: int, *, phone: bool = True) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})

    def open(self, address: str) -> None:
        self.browser.get(address)
        self.until("document.querySelectorAll('.option').length === 4")

    def js(self, code: str) -> Any:
        """Return what a function of this body returns."""
        return self.browser.execute_script(code)

    def text(self, selector: str) -> str:
        return str(self.js(f"return document.querySelector({selector!r}).textContent"))

    def until(self, condition: str) -> None:
        end = time.monotonic() + 60
        while not self.js(f"return {condition}"):
            assert time.monotonic() < end, f"{condition}: {self.browser.get_log('browser')}"
            time.sleep(0.02)

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({selector!r}).click()")

    def touch(self, selector: str) -> None:
        """Tap the middle of an element where it is now; something above it would get the tap."""
        x, y = self.js(
            f"const box = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]"
        )
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            self.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def stroke(self) -> None:
        """Draw a short line to the right, from the middle of the pad."""
        x, y = self.js(
            "const pad = document.querySelector('#pad'); pad.scrollIntoView({block: 'center'});"
            "const box = pad.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]"
        )
        for kind, shift in (("mousePressed", 0), ("mouseMoved", 40), ("mouseReleased", 40)):
            event = {"type": kind, "x": x + shift, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def pixels(self, selector: str) -> Tensor:
        """Return the colours of a canvas, (h, w, 3)."""
        width, values = self.js(
            f"const from = document.querySelector({selector!r}), {{width, height}} = from;"
            "const pen = Object.assign(document.createElement('canvas'), {width, height}).getContext('2d');"
            "pen.drawImage(from, 0, 0); return [width, [...pen.getImageData(0, 0, width, height).data]]"
        )
        return torch.tensor(values).reshape(-1, width, 4)[..., :3]


@pytest.fixture
def page(browser: Any) -> Page:
    return Page(browser)


def test_a_person_walks_swaps_draws_and_shares(page: Page, served: str) -> None:
    page.open(f"{served}#model=a+<b>name</b>&code=2")
    assert page.text("#name") == "a <b>name</b>"
    page.click(".chip:not([disabled]) .none")
    page.until("document.querySelector('#choices-title').textContent === 'Options of stage 2'")
    page.click(".option:nth-child(4)")
    page.until("location.hash.endsWith('code=2,3')")
    page.until("document.querySelector('#choices-title').textContent === 'Options of stage 3'")
    page.js("document.querySelector('.option').dispatchEvent(new PointerEvent('pointerenter', {pointerType: 'mouse'}))")
    stage = page.js("return document.querySelector('#stage').value")
    assert page.text("#caption").startswith(f"After {stage} stage"), "the slider and the caption agree on the stage"
    page.click(".chip")
    page.until("document.querySelector('#choices-title').textContent === 'Options of stage 1'")
    page.click(".option:nth-child(1)")
    page.until("location.hash.endsWith('code=0,3') && document.querySelectorAll('#rows td').length === 6")
    page.browser.back()
    page.until("document.querySelector('.chip b').textContent === '2'")
    page.stroke()
    page.until("document.querySelectorAll('.candidate').length === 8")
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")


IN_SIGHT = """
const seen = (element) => {
  const box = element.getBoundingClientRect();
  return element.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2));
};
"""


@pytest.mark.parametrize(("width", "height"), [(390, 844), (360, 640)])
def test_the_reconstruction_and_the_stages_stay_in_sight_of_the_options(
    width: int, height: int, page: Page, served: str
) -> None:
    page.resize(width, height)
    page.open(f"{served}#code=2,1,3")
    page.click("#strip li:nth-child(2) .chip")
    page.until("document.querySelector('#choices-title').textContent === 'Options of stage 2'")
    page.js("document.querySelector('#options').scrollIntoView()")
    before, top = page.pixels("#glance"), "document.querySelector('#options').getBoundingClientRect().top"
    at = page.js(f"return {top}")
    page.touch(".option:nth-child(4)")
    page.until("location.hash.endsWith('code=2,3,3') && document.querySelectorAll('#rows td').length === 6")
    assert page.js(f"return {top}") == pytest.approx(at, abs=1), "the next option stays under the finger"
    in_sight = page.js(
        f"{IN_SIGHT} return ['#glance', '[aria-current=true]', '.final', '.option:nth-child(4)', '#glance-caption']"
        ".map((selector) => seen(document.querySelector(selector)))"
    )
    assert in_sight == [True] * 5
    assert torch.equal(page.pixels("#glance"), page.pixels("#view"))
    assert not torch.equal(page.pixels("#glance"), before)
    assert page.text(".final small") == "33", "the last stage and its option"
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")
    page.resize(1280, 900, phone=False)
    assert page.js("return getComputedStyle(document.querySelector('#glance')).display") == "none"


def test_a_finger_hits_every_control_and_every_text_is_readable(page: Page, served: str) -> None:
    page.open(f"{served}#code=2,1,3")
    page.click(".chip")
    page.stroke()
    page.until("document.querySelectorAll('.candidate').length === 8")
    page.click(".option:nth-child(1)")
    page.until("!document.querySelector('#change').hidden")
    small = page.js(
        "return [...document.querySelectorAll('button, select, .button, [type=range], label:has([type=checkbox])')]"
        ".filter((control) => control.offsetParent && Math.min(control.offsetWidth, control.offsetHeight) < 40)"
        ".map((control) => control.id || control.textContent)"
    )
    assert small == []
    tiny = page.js(
        "return [...document.querySelectorAll('body *')].filter((element) => element.offsetParent"
        " && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())"
        " && parseFloat(getComputedStyle(element).fontSize) < 12).map((element) => element.textContent)"
    )
    assert tiny == []


def test_a_page_opened_by_a_link_says_that_an_image_is_not_in_it(page: Page, served: str) -> None:
    page.open(served)
    assert page.js("return document.querySelector('#origin').hidden"), "nothing came from a link"
    page.stroke()
    page.until("document.querySelectorAll('.candidate').length === 8")
    page.click("#share")
    page.until("!document.querySelector('#notice').hidden")
    assert "the code, but not your image" in page.text("#notice")
    page.browser.refresh()
    page.until("!document.querySelector('#origin').hidden")
    assert "that image is not in the link" in page.text("#origin")
    page.click("#random")
    page.until("document.querySelector('#origin').hidden")


def test_a_second_finger_draws_nothing(page: Page, served: str) -> None:
    page.open(served)
    for kind, finger, x in (("down", 1, 0.1), ("down", 2, 0.9), ("move", 2, 0.8), ("move", 1, 0.2), ("up", 2, 0.8)):
        page.js(
            "const pad = document.querySelector('#pad'), box = pad.getBoundingClientRect();"
            "pad.setPointerCapture = () => {};"  # No finger is there to be captured.
            f"pad.dispatchEvent(new PointerEvent('pointer{kind}', {{pointerId: {finger},"
            f" clientX: box.left + {x} * box.width, clientY: box.top + box.height / 2}}))"
        )
    drawn = page.pixels("#image")
    assert drawn[:, :10].any()
    assert not drawn[:, 10:].any()


def test_the_keyboard_stays_where_the_last_option_was_chosen(page: Page, served: str) -> None:
    page.open(f"{served}#code=2")
    page.until("document.querySelector('#choices-title').textContent === 'Options of stage 1'")
    page.js("document.querySelector('.option:nth-child(2)').focus()")
    page.browser.switch_to.active_element.send_keys("\ue007")
    page.until("location.hash.endsWith('code=1')")
    page.until("document.activeElement.matches('.option:nth-child(2)[aria-pressed=true]')")


def test_a_model_of_colours_is_drawn_dropped_and_completed_in_colour(page: Page) -> None:
    overrides = (*RECIPES["image"][1], "data={name: image_folder, path: none, size: 8}", "model.stages=15")
    coloured = of_recipe("mnist", *overrides).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(coloured.bias, std=0.5)
    code = [3, 1, 0, 2, 1, 3, 0, 0, 2, 1, 1, 3, 2, 0, 1]
    with serving(coloured, "coloured", page.browser) as address:
        page.open(f"{address}#code={','.join(map(str, code))}")
        shown = (coloured.data.pixels(coloured.decode(torch.tensor([code])).detach()) * 255).round()[0].permute(1, 2, 0)
        assert torch.equal(page.pixels("#view"), shown.long())
        assert torch.equal(page.pixels("#strip li:last-child canvas"), shown.long())
        page.js("document.querySelector('#colour').value = '#00c020'; document.querySelector('#pen').value = 100")
        page.stroke()
        page.until("document.querySelectorAll('.candidate').length === 8")
        red, green, blue = page.pixels("#image")[4, 4].tolist()
        assert red < blue < 100 < green < 220
        page.js(
            "const canvas = Object.assign(document.createElement('canvas'), {width: 80, height: 60});"
            "const pen = canvas.getContext('2d'); pen.fillStyle = '#c81e5a'; pen.fillRect(0, 0, 80, 60);"
            "canvas.toBlob((blob) => { const dataTransfer = new DataTransfer();"
            "dataTransfer.items.add(new File([blob], 'a.png', {type: 'image/png'}));"
            "dispatchEvent(new DragEvent('drop', {dataTransfer})); })"
        )
        page.until("document.querySelector('#image').getContext('2d').getImageData(0, 0, 1, 1).data[0] === 200")
        assert (page.pixels("#image") == torch.tensor([200, 30, 90])).all()
        page.click("[data-tool=hide]")
        page.stroke()
        page.until("document.querySelector('#found-title').textContent === 'Completions'")
        page.until("document.querySelectorAll('.candidate').length === 8")
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
