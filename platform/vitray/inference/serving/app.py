"""The routes: an ASGI application in front of whatever version is live."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from vitray.errors import DataError, VitrayError
from vitray.inference.serving import asked, page
from vitray.inference.serving.asked import Asked, RefusalError
from vitray.inference.serving.batching import BusyError
from vitray.inference.serving.contract import Answer
from vitray.inference.serving.guard import HEADERS, Guard
from vitray.inference.serving.live import Live, Loaded

MAX_BYTES = 16_000_000
_ANSWER_S = 60.0
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class App:
    """Answers HTTP.

    Args:
        live: the version that answers.
        guard: who may ask.
        say: prints a line for the person at the terminal.
        max_bytes: of a request's body.
    """

    def __init__(self, live: Live, guard: Guard, *, say: Callable[[str], None], max_bytes: int = MAX_BYTES) -> None:
        self._live, self._guard, self._say, self._max_bytes = live, guard, say, max_bytes
        self._page = page.load()
        self._routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/": ("GET", self._show),
            "/predict": ("POST", self._predict),
            "/explain": ("POST", self._explain),
            "/model": ("GET", self._model),
            "/metrics": ("GET", self._metrics),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begin = time.perf_counter()
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except RefusalError as no:
            response = JSONResponse({"error": no.what, "remedy": no.remedy}, no.status, headers=no.headers)
        except Exception as error:  # a mistake of ours must not end the connection of somebody else
            self._say(f"error: {request.method} {request.url.path}: {type(error).__name__}: {error}")
            remedy = "see what `vitray serve` prints"
            response = JSONResponse({"error": "something went wrong here", "remedy": remedy}, 500)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send if request.method != "HEAD" else _without_body(send))
        path = request.url.path
        route = path if path in self._routes else "other"
        self._live.metrics.request(route, response.status_code, time.perf_counter() - begin)

    async def _answer(self, request: Request) -> Response:
        self._guard.check(request.method, request.headers)
        found = self._routes.get(request.url.path)
        if found is None:
            raise RefusalError(404, f"there is no {request.url.path[:80]}", f"there are: {', '.join(self._routes)}")
        method, handler = found
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            raise RefusalError(405, f"{request.method} is not for {request.url.path}", f"use {method}", allow=method)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await handler(request)
        except BusyError as error:
            raise RefusalError(503, error.what, "try again in a moment", **{"retry-after": "1"}) from None
        except TimeoutError:
            raise RefusalError(504, f"no answer within {_ANSWER_S:.0f} s", "see what `vitray serve` prints") from None
        except VitrayError as error:
            raise RefusalError(503, error.what, error.remedy or "see what `vitray serve` prints") from None

    def _current(self) -> Loaded:
        if self._live.current is None:
            raise RefusalError(503, "no model is loaded yet", "wait until /readyz says so", **{"retry-after": "1"})
        return self._live.current

    async def _predict(self, request: Request) -> Response:
        wants = await asked.read(request, self._max_bytes)
        model = self._current()  # after the body: a slow upload gets the version of now
        whole = [image.data for image in wants.images if image.error is None]
        answers = iter(await model.batcher.ask(whole, wants.top_k) if whole else ())
        found = [Answer(error=image.error) if image.error else next(answers) for image in wants.images]
        errors = sum(answer.error is not None for answer in found)
        self._live.metrics.images(len(found) - errors, errors)
        rows = [_row(answer, image.file) for answer, image in zip(found, wants.images, strict=True)]
        body = {"model": model.version.label, "predictions": rows}
        return JSONResponse(body, 422 if errors == len(found) else 200)

    async def _explain(self, request: Request) -> Response:
        wants = await asked.read(request, self._max_bytes)
        image, model = _only_one(wants), self._current()
        try:
            seen = await self._live.backend.explain(model.version.key, image, wants.top_k)
        except DataError as error:
            raise RefusalError(422, error.what, error.remedy or "send a PNG or JPEG that is whole") from None
        return JSONResponse(
            {
                "model": model.version.label,
                "top": _top(seen.top),
                "image": "data:image/png;base64," + base64.b64encode(seen.pixels).decode(),
                "height": seen.size[0],
                "width": seen.size[1],
                "query": "class token" if seen.pool == "cls" else "mean over all patches",
                "rollout": seen.rollout,
                "blocks": seen.blocks,
            }
        )

    async def _model(self, request: Request) -> Response:
        version, facts = self._current().version, self._current().facts
        return JSONResponse(
            {
                "model": version.label,
                "name": version.name,
                "version": version.number,
                "alias": version.alias,
                "test_accuracy": version.test_accuracy,
                "classes": facts.classes,
                "image_size": facts.size,
                "channels": facts.channels,
                "parameters": facts.parameters,
                "sha256": facts.digest,
                "dataset_fingerprint": facts.dataset_fingerprint,
                "config": facts.config,
            }
        )

    async def _metrics(self, request: Request) -> Response:
        if self._live.current is not None:
            self._live.metrics.waiting.set(self._live.current.batcher.waiting)
        return Response(self._live.metrics.text(), headers={"content-type": _METRICS_TYPE})

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _readyz(self, request: Request) -> Response:
        model = self._current()
        if reason := await self._live.backend.absent():
            raise RefusalError(503, reason, "wait: it is being started again", **{"retry-after": "1"})
        return JSONResponse({"ready": True, "model": model.version.label, "warning": self._live.trouble})

    async def _show(self, request: Request) -> Response:
        return Response(self._page.html, headers=self._page.headers)


def _only_one(wants: Asked) -> bytes:
    if len(wants.images) > 1:
        raise RefusalError(400, f"{len(wants.images)} images to explain", "send them one by one")
    (image,) = wants.images
    if image.error is not None:
        raise RefusalError(422, image.error, "send a PNG or JPEG that is whole")
    return image.data


def _row(answer: Answer, file: str | None) -> dict[str, Any]:
    named = {} if file is None else {"file": file}
    if answer.error is not None:
        return {**named, "error": answer.error}
    label, probability = answer.top[0]
    return {**named, "label": label, "probability": probability, "top": _top(answer.top)}


def _top(classes: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": probability} for label, probability in classes]


def _without_body(send: Send) -> Send:
    async def head_only(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head_only
