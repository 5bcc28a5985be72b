"""The server of the page: which requests it accepts, and how it starts.

Only this machine reaches the server by default. But any web page that its user visits can make the browser send
requests here, so `Guarded` refuses those of other pages.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
import webbrowser
from asyncio import Lock
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vqtk.errors import VqtkError, is_out_of_memory
from vqtk.explore.explorer import (
    CompleteQuestion,
    DecodeQuestion,
    EncodeQuestion,
    Explorer,
    OptionsQuestion,
    Question,
)

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_MOST_AT_ONCE = 64
"""Connections that are served at once; further ones are refused."""


_PATIENCE_S = 2
"""Seconds that a question may still take after Ctrl-C."""


class Guarded:
    """Refuses requests that other web pages cause, and adds `HEADERS` to every response.

    A page of another site can reach a server on this machine under a host name of its own (DNS rebinding), so the host
    must be `localhost`, an address, or the name that was bound. If a request has an origin, it must be this server.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        answered = PlainTextResponse(f"{refusal}\n", 403) if refusal else self.app
        await answered(scope, receive, send_guarded)

    def _refusal(self, headers: Headers) -> str | None:
        host = headers.get("host", "")
        if not (_is_address(host) or _name_of(host) in ("localhost", self.host)):
            return "This host name is not served."
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            return "Requests of other web pages are not served."
        return None


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_address(host: str) -> bool:
    try:
        ip_address(_name_of(host).removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def app_of(explorer: Explorer, *, host: str = "127.0.0.1") -> ASGIApp:
    """Return the application: the page, the model's facts, and the model's answers."""
    # One question at a time: each keeps all threads busy, and graphs that are captured on CUDA serve one.
    lock = Lock()

    async def facts(request: Request) -> Response:
        return JSONResponse(explorer.facts())

    def answering(kind: type[Question], answer: Callable[[Any], dict[str, Any]]) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return _refused(415, "expected application/json.")
            body = await _body(request, most=explorer.most_question_bytes)
            if body is None:
                return _refused(413, f"expected at most {explorer.most_question_bytes:,} bytes.")
            async with lock:
                return await run_in_threadpool(_answered, kind, answer, body)

        return endpoint

    questions: dict[str, tuple[type[Question], Callable[[Any], dict[str, Any]]]] = {
        "decode": (DecodeQuestion, explorer.decode),
        "options": (OptionsQuestion, explorer.options),
        "encode": (EncodeQuestion, explorer.encode),
        "complete": (CompleteQuestion, explorer.complete),
    }
    routes = [Route(f"/api/{name}", answering(*asked), methods=["POST"]) for name, asked in questions.items()]
    page = Mount("/", StaticFiles(directory=PAGE, html=True))
    return Guarded(Starlette(routes=[Route("/api/model", facts), *routes, page]), host)


async def _body(request: Request, *, most: int) -> bytes | None:
    """Return the body of a request; None if it is larger than `most` bytes, of which no more are read."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return bytes(body)


def _answered(kind: type[Question], answer: Callable[[Any], dict[str, Any]], body: bytes) -> Response:
    try:
        return JSONResponse(answer(kind.model_validate_json(body)))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "question"
        return _refused(400, f"{where}: {first['msg']}.")
    except VqtkError as error:
        return _refused(400, str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _refused(503, "out of memory. Free some, or ask for fewer answers or a narrower beam.")


def _refused(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any free one. Raises: VqtkError if it is in use or refused."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise VqtkError(
                f"port {port} of {host} is in use by another program. Choose another, as in --port {port + 1}, or "
                "--port 0 for any free one."
            ) from None
        raise VqtkError(f"cannot serve on {host}, port {port} ({error.strerror or error}). Choose others.") from None
    return found


def serve(explorer: Explorer, *, host: str, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C, and open it in a browser if there is one.

    Raises: VqtkError if the port is in use.
    """
    with listening(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        settle_threads(explorer)
        print(f"Exploring {explorer.name} at {url} (stop with Ctrl-C)", flush=True)
        if browser and (sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}):
            page = f"{url}#model={quote(explorer.name, safe='')}"
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
        config = uvicorn.Config(
            app_of(explorer, host=host), log_level="warning", access_log=False, server_header=False, lifespan="off",
            ws="none", limit_concurrency=_MOST_AT_ONCE, timeout_graceful_shutdown=_PATIENCE_S,
        )  # fmt: skip
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def settle_threads(explorer: Explorer) -> None:
    """Answer a first question with torch's number of threads and with one; keep the faster.

    One image keeps few threads busy, and beside another busy process they wait for each other: the options of the model
    `mnist` then took 1.3 s with two threads, and 40 ms with one.
    """
    threads = torch.get_num_threads()
    if threads == 1 or explorer.model.device.type != "cpu":
        return
    ask = partial(explorer.options, OptionsQuestion(codes=[]))
    ask()
    seconds = {}
    for count in (threads, 1):
        torch.set_num_threads(count)
        begun = time.perf_counter()
        ask()
        seconds[count] = time.perf_counter() - begun
    torch.set_num_threads(min(seconds, key=lambda count: seconds[count]))
