"""A stand-in for the HTTP API of the Hugging Face hub, on this machine: repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

TOKEN = "hf_a_secret_of_nobody"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repositories = dict[str, dict[str, bytes]]


class Hub(ThreadingHTTPServer):
    """`repositories` by name, each with its files; `asked` lists the requests; `closed` refuses all that write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: Repositories = {}
        self.asked: list[str] = []
        self.closed = False


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, body: bytes | dict[str, Any] = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        words = self.path.partition("?")[0].strip("/").split("/")
        if words[:2] == ["api", "models"]:
            files = self.server.repositories.get("/".join(words[2:4]))
            if files is None:
                return self._answer(404, {}, X_Error_Code="RepoNotFound")
            if "tree" in words:
                tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(files[name])} for name in files]
                return self._answer(200, json.dumps(tree).encode())
            found = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            return self._answer(200, {"id": "/".join(words[2:4]), "sha": COMMIT, "siblings": found, "private": False})
        files = self.server.repositories.get("/".join(words[:2]))
        if files is None:
            return self._answer(404, {}, X_Error_Code="RepoNotFound")
        if words[3] not in ("main", COMMIT):
            return self._answer(404, {}, X_Error_Code="RevisionNotFound")
        content = files.get("/".join(words[4:]))
        if content is None:
            return self._answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self._answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.closed or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(403, {"error": f"{TOKEN} may not write"})
        words = self.path.partition("?")[0].strip("/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.server.repositories.setdefault(name, {})
            return self._answer(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if "preupload" in words:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        if "commit" in words:
            repository = self.server.repositories["/".join(words[2:4])]
            for line in filter(None, body.splitlines()):
                one = json.loads(line)
                if one["key"] == "file":
                    repository[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            url = f"http://{self.headers['Host']}/{'/'.join(words[2:4])}/commit/{COMMIT}"
            return self._answer(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self._answer(200, {})


@contextmanager
def hub_here(monkeypatch: pytest.MonkeyPatch, cache: Any) -> Iterator[Hub]:
    """Serve an empty hub to this process alone, with a cache of its own."""
    from huggingface_hub import constants

    with Hub() as server:
        address = f"http://127.0.0.1:{server.server_port}"  # As HF_ENDPOINT, which is read when it is imported.
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
