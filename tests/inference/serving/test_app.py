"""The routes with a real model in this process: every way to send images, and every way to be refused."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_backend import LocalBackend, Said, ask
from served_models import CLASSES, encoded, save_model

from vitray.data.decode import encode_png
from vitray.inference import Predictor
from vitray.inference.serving import asked, versions
from vitray.inference.serving.app import App
from vitray.inference.serving.guard import Guard
from vitray.inference.serving.live import Live
from vitray.inference.serving.metrics import Metrics

pytestmark = pytest.mark.slow
Requests = Callable[[App], Awaitable[Any]]
BOUNDARY = "multipart/form-data; boundary=xyz"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "signs", seed=1)


@pytest.fixture
def serving(package: Path) -> Callable[[Requests], Any]:
    """Runs requests against an application that serves the package."""

    def run(requests: Requests) -> Any:
        async def go() -> Any:
            live = Live(str(package), LocalBackend(), metrics=Metrics(), say=print)
            await live.start(versions.find(str(package)))
            return await requests(App(live, Guard("127.0.0.1", ("signs.example",)), say=print, max_bytes=200_000))

        return asyncio.run(go())

    return run


def form(*parts: tuple[str, bytes]) -> bytes:
    """Parts as (the head's words after ``form-data``, content)."""
    lines = [b"--xyz\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (h.encode(), c) for h, c in parts]
    return b"".join(lines) + b"--xyz--\r\n"


def test_every_way_to_send_an_image_has_the_predictors_answer(serving: Callable[..., Any], package: Path) -> None:
    images = encoded()
    expected = Predictor.load(package).predict(images, top_k=2)
    assert len({p.label for p in expected}) > 1
    texts = [base64.b64encode(image).decode() for image in images]
    texts[0] = f"data:image/png;base64,{texts[0]}"

    async def requests(app: App) -> None:
        kinds = ["image/jpeg" if i % 2 else "image/png" for i in range(len(images))]
        raw = [
            await ask(app, "POST", "/predict?top_k=2", i, content_type=k) for i, k in zip(images, kinds, strict=True)
        ]
        files = [(f'name="f"; filename="{i}.png"', image) for i, image in enumerate(images)]
        as_form = await ask(app, "POST", "/predict", form(*files, ('name="top_k"', b"2")), content_type=BOUNDARY)
        body = json.dumps({"images": texts, "top_k": 2}).encode()
        as_json = await ask(app, "POST", "/predict", body, content_type="application/json; charset=utf-8")
        alone = [row for said in raw for row in said.json["predictions"]]
        for rows in (alone, as_form.json["predictions"], as_json.json["predictions"]):
            assert [row["label"] for row in rows] == [p.label for p in expected]
            assert [row["probability"] for row in rows] == pytest.approx([p.probability for p in expected], abs=1e-5)
            assert [[c["label"] for c in row["top"]] for row in rows] == [[c for c, _ in p.top] for p in expected]
        assert [row["file"] for row in as_form.json["predictions"]] == [f"{i}.png" for i in range(len(images))]
        assert {as_form.json["model"], as_json.json["model"]} == {"signs"}

    serving(requests)


def test_bad_images_are_answered_in_place_and_the_rest_all_the_same(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = encoded(1)[0]
    bomb = good[:16] + struct.pack(">II", 9000, 9000) + good[24:]  # so its header says
    rows = {
        "not base64": "%%%",
        "a int is not an image": 3,
        "a NoneType is not an image": None,
        "not a JPEG or PNG, but GIF": base64.b64encode(b"GIF89a....").decode(),
        "truncated PNG": base64.b64encode(good[:60]).decode(),
        "9000x9000 pixels": base64.b64encode(bomb).decode(),
    }
    text = base64.b64encode(good).decode()

    async def requests(app: App) -> None:
        body = json.dumps({"images": [text, *rows.values(), text]}).encode()
        said = await ask(app, "POST", "/predict", body, content_type="application/json")
        assert said.status == 200
        first, *bad, last = said.json["predictions"]
        assert first == last
        for row, reason in zip(bad, rows, strict=True):
            assert list(row) == ["error"]
            assert row["error"].startswith(reason)
        # Each alone would be let in; decoded, the two would keep the model as long as one that would not.
        monkeypatch.setattr(asked, "MAX_PIXELS", 8 * 12 * 3 // 2)
        body = json.dumps({"images": [text] * 2}).encode()
        one, other = (await ask(app, "POST", "/predict", body, content_type="application/json")).json["predictions"]
        assert "label" in one
        assert "in all" in other["error"]
        none = await ask(app, "POST", "/predict", b"junk", content_type="image/png")
        assert (none.status, none.json["predictions"]) == (422, [{"error": "not a JPEG or PNG"}])
        explained = await ask(app, "POST", "/explain", b"junk", content_type="image/png")
        assert (explained.status, explained.json["error"]) == (422, "not a JPEG or PNG")
        metrics = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'vitray_images_total{outcome="error"} 8.0' in metrics
        assert 'vitray_images_total{outcome="answered"} 3.0' in metrics
        assert 'vitray_requests_total{code="422",route="/predict"} 1.0' in metrics

    serving(requests)


JSON = "application/json"
REFUSED: list[tuple[str, str, bytes, int, str]] = [
    ("/predict", "text/plain", b"x", 415, "'text/plain' is not taken"),
    ("/predict", "", b"x", 415, "no content type"),
    ("/predict", "image/png", b"x" * 200_001, 413, "larger than 0.2 MB"),
    ("/predict", "image/png", b"x" * 3_000_000, 413, "larger than 0.2 MB"),
    ("/predict?top_k=0", "image/png", b"x", 400, "top_k is '0'"),
    ("/predict?top_k=-1", "image/png", b"x", 400, "top_k is '-1'"),
    ("/predict?topk=1", "image/png", b"x", 400, "unknown query parameter 'topk'"),
    ("/predict", JSON, b"{", 400, "the body is not JSON"),
    ("/predict", JSON, b"\xff\xfe", 400, "the body is not JSON"),
    ("/predict", JSON, b"[" * 100_000, 400, "nested too deeply"),
    ("/predict", JSON, b"[]", 400, "the JSON is a list"),
    ("/predict", JSON, b'{"image": "x"}', 400, "unknown key 'image'"),
    ("/predict", JSON, b'{"images": "x"}', 400, "images is a str"),
    ("/predict", JSON, b'{"images": []}', 400, "no image in the request"),
    ("/predict", JSON, b"{}", 400, "no image in the request"),
    ("/predict", JSON, b'{"images": ["eA=="], "top_k": true}', 400, "top_k is 'True'"),
    ("/predict", JSON, b'{"images": ["eA=="], "top_k": 1.5}', 400, "top_k is '1.5'"),
    ("/predict", JSON, b'{"images": ["eA=="], "top_k": "many"}', 400, "top_k is 'many'"),
    ("/predict", JSON, json.dumps({"images": [""] * 300}).encode(), 413, "300 images in one request"),
    ("/predict", BOUNDARY, b"no form", 400, "form"),
    ("/predict", "multipart/form-data", b"no boundary", 400, "form"),
    ("/predict", BOUNDARY, form(('name="note"', b"hello")), 400, "the form's field 'note' is not a file"),
    ("/explain", JSON, b'{"images": ["eA==", "eA=="]}', 400, "2 images to explain"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_cannot_be_meant_is_refused_in_one_clear_sentence(serving: Callable[..., Any], case: int) -> None:
    url, kind, body, status, what = REFUSED[case]

    async def requests(app: App) -> Said:
        return await ask(app, "POST", url, body, **({"content_type": kind} if kind else {}))

    said = serving(requests)
    assert (said.status, said.headers["content-type"]) == (status, "application/json")
    assert what in said.json["error"]
    assert said.json["remedy"]


def test_unknown_routes_and_methods_name_the_right_ones(serving: Callable[..., Any]) -> None:
    async def requests(app: App) -> None:
        nowhere = await ask(app, "GET", "/predictions")
        assert nowhere.status == 404
        assert "/predict," in nowhere.json["remedy"]
        wrong = await ask(app, "GET", "/predict")
        assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
        assert (await ask(app, "PUT", "/model")).status == 405
        head = await ask(app, "HEAD", "/")
        assert (head.status, head.body) == (200, b"")
        assert int(head.headers["content-length"]) > 1000

    serving(requests)


def test_pages_of_other_origins_and_names_that_are_not_ours_are_refused(serving: Callable[..., Any]) -> None:
    image = encoded(1)[0]

    async def requests(app: App) -> None:
        async def status(method: str = "POST", url: str = "/predict", **headers: str) -> int:
            said = await ask(app, method, url, image, content_type="image/png", **headers)
            assert "access-control-allow-origin" not in said.headers
            return said.status

        assert await status() == 200
        assert await status(origin="http://127.0.0.1:8000") == 200
        assert await status(host="localhost:9", origin="http://localhost:9") == 200
        for host in ("signs.example", "signs.example:443"):  # behind a proxy that speaks TLS
            assert await status(host=host, origin="https://signs.example") == 200
            assert await status(host=host, origin="https://signs.example:444") == 403
        assert await status(host="[::1]:8000") == 200
        for origin in ("http://evil.example", "http://127.0.0.1:8001", "null", "file://", "http://[", ""):
            assert await status(origin=origin) == 403
        # A name that was made to point here: the page's origin and the host it asks for are the same.
        assert await status(host="evil.example:8000", origin="http://evil.example:8000") == 403
        assert await status("GET", "/model", host="evil.example:8000") == 403
        assert await status("GET", "/model", host="localhost.evil.example") == 403
        assert await status("GET", "/model", host="") == 403
        assert await status("GET", "/model", origin="http://evil.example") == 200  # which its browser will not show it
        assert await status("OPTIONS", origin="http://evil.example") == 403

    serving(requests)


def test_an_explanation_is_the_answer_and_where_it_came_from(serving: Callable[..., Any], package: Path) -> None:
    image = encoded(1)[0]
    predictor = Predictor.load(package)
    (expected,) = predictor.predict([image], top_k=4)

    async def requests(app: App) -> Said:
        return await ask(app, "POST", "/explain?top_k=4", image, content_type="image/png")

    said = serving(requests).json
    assert [row["label"] for row in said["top"]] == [label for label, _ in expected.top]
    assert [row["probability"] for row in said["top"]] == pytest.approx([p for _, p in expected.top], abs=1e-5)
    assert (said["height"], said["width"], said["query"]) == (8, 12, "class token")
    assert base64.b64decode(said["image"].removeprefix("data:image/png;base64,")) == encode_png(predictor.fit(image))
    assert np.shape(said["rollout"]) == (2, 3)
    assert np.shape(said["blocks"]) == (2, 2, 3)
    assert 0 < np.sum(said["rollout"]) < 1
    assert all(0 < np.sum(block) < 1 for block in said["blocks"])  # the rest went to the class token


def test_the_model_tells_what_it_is(serving: Callable[..., Any]) -> None:
    async def requests(app: App) -> None:
        model = (await ask(app, "GET", "/model")).json
        assert (model["model"], model["version"], model["alias"], model["test_accuracy"]) == ("signs", None, None, None)
        assert model["classes"] == list(CLASSES)
        assert (model["image_size"], model["channels"]) == ([8, 12], 3)
        assert len(model["sha256"]) == 64
        assert model["config"]["pos_encoding"]
        assert (await ask(app, "GET", "/healthz")).json == {"alive": True}
        assert (await ask(app, "GET", "/readyz")).json == {"ready": True, "model": "signs", "warning": None}

    serving(requests)


def test_before_a_model_is_there_only_readiness_says_no(package: Path) -> None:
    async def go() -> None:
        live = Live(str(package), LocalBackend(), metrics=Metrics(), say=print)
        app = App(live, Guard("127.0.0.1"), say=print)
        assert (await ask(app, "GET", "/healthz")).status == 200
        assert (await ask(app, "GET", "/metrics")).status == 200
        for method, url in (("GET", "/readyz"), ("GET", "/model"), ("POST", "/predict")):
            said = await ask(app, method, url, encoded(1)[0], content_type="image/png")
            assert (said.status, said.json["error"]) == (503, "no model is loaded yet")

    asyncio.run(go())


def test_a_mistake_of_ours_is_a_500_and_a_line_for_the_person(serving: Callable[..., Any], capsys: Any) -> None:
    async def requests(app: App) -> Said:
        async def break_down(*_: object) -> None:
            raise ZeroDivisionError("of the test")

        app._live.backend.explain = break_down  # type: ignore[method-assign,assignment]
        return await ask(app, "POST", "/explain", encoded(1)[0], content_type="image/png")

    said = serving(requests)
    assert (said.status, said.json["error"]) == (500, "something went wrong here")
    assert "POST /explain: ZeroDivisionError: of the test" in capsys.readouterr().out


def test_the_page_may_run_its_own_script_and_nothing_else(serving: Callable[..., Any]) -> None:
    async def requests(app: App) -> Said:
        return await ask(app, "GET", "/")

    said = serving(requests)
    policy = dict(part.strip().split(" ", 1) for part in said.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in said.headers["content-security-policy"]
    assert policy["connect-src"] == "'self'"
    assert said.headers["x-content-type-options"] == "nosniff"
    html = said.body.decode()
    assert html.count("<script>") == html.count("<style>") == 1
    assert "http://" not in html
    assert "https://" not in html


def test_a_body_that_does_not_arrive_is_given_up(serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_BODY_S", 0.05)

    async def requests(app: App) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return sent

    assert serving(requests)[0]["status"] == 408
