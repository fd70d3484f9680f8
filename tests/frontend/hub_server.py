"""A hub on this machine: answers from folders what huggingface_hub's own client asks for; nothing in the client is replaced."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """``models``: id -> revision -> (commit, folder); ``asked``: method and path of each request."""

    daemon_threads = True

    def __init__(self, models: dict[str, dict[str, tuple[str, Path]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models, self.asked = models, list[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def find(self, model: str, revision: str) -> tuple[str, Path] | None:
        known = self.models.get(model, {})
        by_commit = {commit: (commit, folder) for commit, folder in known.values()}
        return known.get(revision) or by_commit.get(revision)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server
        assert isinstance(hub, Hub)
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        hub.asked.append(f"{self.command} {path}")
        if m := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/revision/([\w./-]+))?", path):
            self._info(hub, m[1], m[2] or "main")
        elif m := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/tree/([\w.-]+)(?:/(.*))?", path):
            self._tree(hub, m[1], m[2], m[3] or "", "true" in parse_qs(parts.query).get("recursive", [""])[0].lower())
        elif m := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/([\w.-]+)/(.+)", path):
            self._file(hub, m[1], m[2], m[3])
        else:
            self._say(404, b"{}")

    def _info(self, hub: Hub, model: str, revision: str) -> None:
        found = hub.find(model, revision)
        if found is None:
            self._missing(model, revision, hub)
            return
        commit, folder = found
        files = [{"rfilename": p.relative_to(folder).as_posix()} for p in sorted(folder.rglob("*")) if p.is_file()]
        self._say(200, json.dumps({"id": model, "modelId": model, "sha": commit, "siblings": files}).encode())

    def _tree(self, hub: Hub, model: str, revision: str, under: str, recursive: bool) -> None:
        found = hub.find(model, revision)
        place = None if found is None else found[1] / under
        if found is None or place is None or not place.is_dir():
            self._missing(model, revision, hub, "EntryNotFound" if found else "")
            return
        rows = []
        for p in sorted(place.rglob("*") if recursive else place.iterdir()):
            kind, size = ("file", p.stat().st_size) if p.is_file() else ("directory", 0)
            oid = hashlib.sha1(p.as_posix().encode()).hexdigest()
            rows.append({"type": kind, "path": p.relative_to(found[1]).as_posix(), "size": size, "oid": oid})
        self._say(200, json.dumps(rows).encode())

    def _file(self, hub: Hub, model: str, revision: str, name: str) -> None:
        found = hub.find(model, revision)
        if found is None or not (found[1] / name).is_file():
            self._missing(model, revision, hub, "EntryNotFound" if found else "")
            return
        content = (found[1] / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self._say(200, content, "application/octet-stream", {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

    def _missing(self, model: str, revision: str, hub: Hub, code: str = "") -> None:
        code = code or ("RevisionNotFound" if model in hub.models else "RepoNotFound")
        self._say(404, b"{}", headers={"X-Error-Code": code, "X-Error-Message": "there is none"})

    def _say(self, status: int, body: bytes, kind: str = "application/json", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
