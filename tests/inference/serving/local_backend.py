"""Serving without Ray: a shelf of real models in this process, and requests put straight to the application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from vitray.inference.serving.app import App
from vitray.inference.serving.contract import Answer, Explained, Facts, Package
from vitray.inference.serving.shelf import Shelf


class LocalBackend:
    """``calls``: the sizes of the batches that came. While ``gate`` is closed, nothing is answered."""

    def __init__(self) -> None:
        self.shelf, self.calls, self.dropped = Shelf(), list[int](), list[str]()
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, key: str, package: Package) -> Facts:
        return await asyncio.to_thread(self.shelf.load, key, package)

    async def predict(self, key: str, images: Sequence[bytes], top_k: int) -> list[Answer]:
        self.calls.append(len(images))
        await self.gate.wait()
        return self.shelf.predict(key, images, top_k)

    async def explain(self, key: str, image: bytes, top_k: int) -> Explained:
        return self.shelf.explain(key, image, top_k)

    def drop(self, key: str) -> None:
        self.dropped.append(key)

    async def absent(self) -> str | None:
        return None


class Said:
    """A response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=lambda name: 1 / 0)  # NaN is not JSON


async def ask(app: App, method: str, url: str, body: bytes = b"", **headers: str) -> Said:
    """One request. Headers as ``content_type="image/png"``."""
    parts = urlsplit(url)
    given = {"host": "127.0.0.1:8000", **{k.replace("_", "-"): v for k, v in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": parts.path,
        "query_string": parts.query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }
    # In two pieces, as a network brings it.
    pieces = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    named = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Said(sent[0]["status"], named, b"".join(m.get("body", b"") for m in sent[1:]))
