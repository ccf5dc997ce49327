"""An S3-compatible server in a process of its own, and what a test does with it."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import pyarrow.fs as pafs

KEY, SECRET = "AKIAKEYOFATEST", "secretOFaTEST"


@dataclass(frozen=True)
class Bucket:
    """A new, empty bucket on the server at ``port``."""

    port: int
    name: str

    def uri(self, path: str) -> str:
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://{KEY}:{SECRET}@{self.name}/{path}?{options}"

    def filesystem(self) -> pafs.FileSystem:
        return pafs.FileSystem.from_uri(self.uri(""))[0]

    def put(self, path: str, data: bytes) -> None:
        with self.filesystem().open_output_stream(f"{self.name}/{path}") as stream:
            stream.write(data)

    def files(self, below: str = "") -> dict[str, bytes]:
        """The bytes of all objects, by their names below a folder."""
        filesystem, base = self.filesystem(), f"{self.name}/{below}".rstrip("/")
        found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
        names = [info.path for info in found if info.type == pafs.FileType.File]
        return {name.removeprefix(f"{base}/"): filesystem.open_input_stream(name).read() for name in names}


@contextmanager
def s3_server() -> Iterator[int]:
    """Runs moto's server on a free port, which it chooses itself and hands over."""
    code = (
        "from werkzeug.serving import make_server\n"
        "from moto.server import DomainDispatcherApplication, create_backend_app\n"
        "server = make_server('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=True)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def new_bucket(port: int) -> Bucket:
    bucket = Bucket(port, f"bucket-{uuid4().hex[:12]}")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{bucket.name}", method="PUT")
    urllib.request.urlopen(request).close()
    return bucket
