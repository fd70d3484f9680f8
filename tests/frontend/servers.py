"""A server of language models on this machine that acts as a test wants it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Act = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Script)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append(Asked(self.path, self.headers.get("Authorization"), body))
        act = server.acts[min(len(server.asked), len(server.acts)) - 1]  # the last one goes on for ever
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # where whom it was for has gone
            act(self)

    def give(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class Asked:
    path: str
    key: str | None
    body: dict[str, Any]

    @property
    def question(self) -> str:
        return str(self.body["messages"][0]["content"])


class Script(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, acts: tuple[Act, ...]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.acts, self.asked = acts, list[Asked]()
        self.over = threading.Event()


def says(content: Any, finish: str = "stop") -> Act:
    message = {"role": "assistant", "content": content}
    value = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }
    return gives(json.dumps(value))


def gives(body: str, kind: str = "application/json") -> Act:
    return lambda handler: handler.give(200, body.encode(), kind)


def fails(status: int, message: str = "no luck", wait_ms: str = "1") -> Act:
    body = json.dumps({"error": {"message": message, "type": "t", "code": None}}).encode()
    return lambda handler: handler.give(status, body, Retry_After_Ms=wait_ms)


def silent(handler: Handler) -> None:
    """Nothing until the test is over."""
    handler.server.over.wait(60)  # type: ignore[attr-defined]


def dripping(handler: Handler) -> None:
    """Bytes now and then, each well within the time limit for a read."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    while not handler.server.over.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b" ")
        handler.wfile.flush()


def hangs_up(handler: Handler) -> None:
    """Less of a body than was said, then the end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": ')
    handler.close_connection = True


@dataclass
class Servers:
    running: list[Script] = field(default_factory=list)

    def __call__(self, *acts: Act) -> Script:
        script = Script(acts)
        threading.Thread(target=script.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.running.append(script)
        return script


def url(script: Script) -> str:
    return f"http://127.0.0.1:{script.server_port}/v1"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Starts servers, which end with the test; a conftest.py that needs it imports it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    servers = Servers()
    yield servers
    for script in servers.running:
        script.over.set()
        script.shutdown()
        script.server_close()
