"""Servers for the tests of stores at URLs: an object server (moto) and web servers with and without parts of files."""

from __future__ import annotations

import http.server
import os
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class Handler(http.server.SimpleHTTPRequestHandler):
    """Python's own handler, that lists nothing, and counts, and answers wrongly if asked to.

    spoil  path, bytes -> what is sent instead, or None to break the connection
    """

    asked: list[str]
    ranges = False

    def __init__(self, *args: Any, owner: WebServer, **kwargs: Any) -> None:
        self.owner = owner
        super().__init__(*args, **kwargs)

    def log_message(self, *_: Any) -> None:
        pass

    def list_directory(self, path: Any) -> None:
        self.send_error(403, "no listing")

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            self.send_error(403, "no listing")
            return
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        self.owner.asked.append(self.path)
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        size = len(data)
        if self.owner.ranges and span:
            data, status = data[int(span[1]) : int(span[2]) + 1], 206
        if self.owner.spoil is not None:
            spoiled = self.owner.spoil(self.path, data)
            if spoiled is None:
                self.connection.close()
                return
            data = spoiled
        self.send_response(status)
        if status == 206 and span:
            self.send_header("Content-Range", f"bytes {span[1]}-{span[2]}/{size}")
        if self.owner.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.owner.sent += len(data)


class WebServer:
    """A web server of a folder."""

    def __init__(self, folder: Path, ranges: bool) -> None:
        self.asked: list[str] = []
        self.sent = 0
        self.spoil: Any = None
        self.ranges = ranges
        handler = partial(Handler, owner=self, directory=str(folder))
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def web_server(folder: Path, ranges: bool = False) -> Iterator[WebServer]:
    """A web server of a folder on a free port of 127.0.0.1; ``ranges``: whether it gives parts of files."""
    server = WebServer(folder, ranges)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def object_server() -> Iterator[Any]:
    """moto's S3 server on a free port of 127.0.0.1, and the environment that leads s3fs there; yields a boto3 client."""
    import boto3
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    there = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }
    before = {name: os.environ.get(name) for name in there}
    os.environ.update(there)
    S3FileSystem.clear_instance_cache()  # fsspec keeps file systems, with the address of an earlier server
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="images")
        yield client
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def upload(client: Any, folder: Path, prefix: str) -> str:
    """Put a store's files into the bucket; returns its URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            client.upload_file(str(path), "images", f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://images/{prefix}"
