"""What a request asks for: images from a raw body, a form or JSON. What cannot be meant is refused with a reason."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from vitray.data.decode import MAX_PIXELS, read_header
from vitray.errors import DataError, nearest

MAX_IMAGES = 256  # in one request
TOP_K = 3
_BODY_S = 30.0  # for a whole body to arrive
_IMAGE_TYPES = ("image/png", "image/jpeg")
_JSON_KEYS = ("images", "top_k")


class RefusalError(Exception):
    """An answer of status 4xx or 503: what is wrong, and what to do instead."""

    def __init__(self, status: int, what: str, remedy: str, **headers: str) -> None:
        super().__init__(what)
        self.status, self.what, self.remedy, self.headers = status, what, remedy, headers


@dataclass(frozen=True)
class Image:
    """Encoded bytes, or why they cannot be an image; ``file`` is the name in a form."""

    data: bytes
    error: str | None = None
    file: str | None = None


@dataclass(frozen=True)
class Asked:
    images: tuple[Image, ...]
    top_k: int


async def read(request: Request, max_bytes: int) -> Asked:
    """Read a POST.

    Raises:
        RefusalError: 400, 408, 413 or 415.
    """
    query = dict(request.query_params)
    if unknown := query.keys() - {"top_k"}:
        name = sorted(unknown)[0]
        raise RefusalError(400, f"unknown query parameter {name[:80]!r}", "only top_k can be given there")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    top_k: Any = query.get("top_k", TOP_K)
    if kind not in (*_IMAGE_TYPES, "application/json", "multipart/form-data"):
        what = f"content type {kind[:80]!r} is not taken" if kind else "the request has no content type"
        raise RefusalError(
            415, what, "send image/png or image/jpeg (curl -H 'Content-Type: image/png'), a form with files, or JSON"
        )
    body = await _body(request, max_bytes)
    if kind == "application/json":
        images, top_k = _from_json(body, top_k)
    elif kind == "multipart/form-data":
        images, top_k = await _from_form(request, body, top_k)
    else:
        images = [Image(body)]
    if not images:
        raise RefusalError(400, "no image in the request", 'send files, or {"images": ["BASE64", ...]}')
    if len(images) > MAX_IMAGES:
        raise RefusalError(413, f"{len(images)} images in one request", f"send {MAX_IMAGES} at most")
    return Asked(tuple(_checked(images)), _top_k(top_k))


async def _body(request: Request, max_bytes: int) -> bytes:
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                # What is too much is read on for a while: a client that still sends would not see the answer.
                size += len(chunk)
                if size <= max_bytes:
                    body += chunk
                elif size > 8 * max_bytes:
                    break
    except TimeoutError:
        raise RefusalError(408, f"the body did not arrive within {_BODY_S:.0f} s", "send it faster") from None
    except ClientDisconnect:
        raise RefusalError(400, "the client went away", "stay") from None
    if size > max_bytes:
        limit = f"{max_bytes / 1e6:g} MB"
        raise RefusalError(413, f"the body is larger than {limit}", "send fewer or smaller images, or serve --max-mb")
    return bytes(body)


def _from_json(body: bytes, top_k: Any) -> tuple[list[Image], Any]:
    shape = 'send {"images": ["BASE64", ...], "top_k": 3}'
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RefusalError(400, f"the body is not JSON: {reason[:200]}", shape) from None
    if not isinstance(content, dict):
        raise RefusalError(400, f"the JSON is a {type(content).__name__}, not an object", shape)
    for key in content:
        if key not in _JSON_KEYS:
            raise RefusalError(400, f"unknown key {key[:80]!r}", nearest(key, _JSON_KEYS))
    images = content.get("images", [])
    if not isinstance(images, list):
        raise RefusalError(400, f"images is a {type(images).__name__}, not a list", shape)
    return [_from_text(image) for image in images], content.get("top_k", top_k)


def _from_text(image: Any) -> Image:
    """Base64, which may come as a data: URI."""
    if not isinstance(image, str):
        return Image(b"", f"a {type(image).__name__} is not an image: send base64")
    encoded = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return Image(base64.b64decode("".join(encoded.split()), validate=True))
    except (binascii.Error, ValueError):
        return Image(b"", "not base64")


async def _from_form(request: Request, body: bytes, top_k: Any) -> tuple[list[Image], Any]:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    remedy = "send files as curl does: -F file=@digit.png -F top_k=3"
    again = Request(request.scope, replay)
    images = []
    try:
        async with again.form(max_files=MAX_IMAGES, max_fields=8) as form:
            for name, value in form.multi_items():
                if not isinstance(value, str):
                    images.append(Image(await value.read(), file=value.filename))
                elif name == "top_k":
                    top_k = value
                else:
                    raise RefusalError(400, f"the form's field {name[:80]!r} is not a file", remedy)
    except (MultiPartException, HTTPException, KeyError) as error:
        reason = getattr(error, "message", None) or getattr(error, "detail", None) or "damaged"
        raise RefusalError(400, f"the form cannot be read: {str(reason)[:200]}", remedy) from None
    return images, top_k


def _top_k(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RefusalError(400, f"top_k is {str(value)[:80]!r}", "give a whole number from 1 on: how many classes")
    return value


def _checked(images: list[Image]) -> list[Image]:
    """Look at the headers, so that nothing travels or is decoded that is no image, or that is very large.

    All images of a request together have :data:`MAX_PIXELS` at most: a PNG of a few kilobytes may be that large.
    """
    left, checked = MAX_PIXELS, []
    for image in images:
        error = image.error
        if error is None:
            try:
                header = read_header(image.data)
            except DataError as found:
                error = found.what
            else:
                pixels = header.width * header.height
                if pixels > left:
                    error = f"{header.width}x{header.height} pixels: the request has more than {MAX_PIXELS:,} in all"
                else:
                    left -= pixels
        checked.append(Image(b"" if error else image.data, error, image.file))
    return checked
