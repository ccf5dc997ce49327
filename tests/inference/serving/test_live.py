"""Following an alias in a real registry, with real models in this process and requests under way."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from local_backend import LocalBackend, ask
from served_models import Models, encoded

from vitray.inference import Predictor
from vitray.inference.serving import versions
from vitray.inference.serving.app import App
from vitray.inference.serving.guard import Guard
from vitray.inference.serving.live import Live
from vitray.inference.serving.metrics import Metrics

pytestmark = pytest.mark.slow
MODEL = "models:/signs@champion"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    found = Models(tmp_path_factory.mktemp("home"))
    for _ in range(3):
        found.add()
    # The third lost the end of its weights on the way.
    stored = found.stored(3)
    stored.write_bytes(stored.read_bytes()[:-10])
    return found


@pytest.fixture
def followed(models: Models) -> Callable[..., Any]:
    """Runs a scene with version 1 as the champion: the live model, its application, and what was said."""

    def run(scene: Callable[[Live, App, list[str]], Awaitable[None]]) -> None:
        async def go() -> None:
            said: list[str] = []
            live = Live(MODEL, LocalBackend(), metrics=Metrics(), say=said.append, tracking_uri=models.uri)
            await live.start(versions.find(MODEL, models.uri))
            await scene(live, App(live, Guard("127.0.0.1"), say=said.append), said)
            await live.close()

        models.promote(1)
        asyncio.run(go())

    return run


async def answered_by(app: App) -> str:
    said = await ask(app, "POST", "/predict", encoded(1)[0], content_type="image/png")
    assert said.status == 200
    model: str = said.json["model"]
    return model


async def metric(app: App, line: str) -> bool:
    return line in (await ask(app, "GET", "/metrics")).body.decode().splitlines()


def test_a_request_keeps_its_version_and_the_next_one_gets_the_new(followed: Any, models: Models) -> None:
    images = encoded(4)
    expected = {
        label: [p.label for p in Predictor.load(package).predict(images)]
        for label, package in models.packages.items()
        if label != "signs/3"
    }
    assert expected["signs/1"] != expected["signs/2"]

    async def scene(live: Live, app: App, said: list[str]) -> None:
        backend = live.backend
        assert isinstance(backend, LocalBackend)
        old_key = versions.find(MODEL, models.uri).key
        await live.look()
        assert said == []  # nothing has moved
        backend.gate.clear()  # what is asked now stays under way
        under_way = asyncio.create_task(ask(app, "POST", "/predict", images[0], content_type="image/png"))
        await asyncio.sleep(0.05)
        models.promote(2)
        await live.look()
        assert not under_way.done()
        assert "signs/2 answers from now on (before: signs/1" in said[0]
        await asyncio.sleep(0.2)
        assert backend.dropped == []  # the old one is still asked
        backend.gate.set()
        row = (await under_way).json
        assert (row["model"], row["predictions"][0]["label"]) == ("signs/1", expected["signs/1"][0])
        for image, label in zip(images, expected["signs/2"], strict=True):
            row = (await ask(app, "POST", "/predict", image, content_type="image/png")).json
            assert (row["model"], row["predictions"][0]["label"]) == ("signs/2", label)
        await asyncio.sleep(0.2)
        assert backend.dropped == [old_key]
        assert await metric(app, 'vitray_model_info{alias="champion",name="signs",version="2"} 1.0')
        assert not await metric(app, 'vitray_model_info{alias="champion",name="signs",version="1"} 1.0')
        models.promote(1)  # and back, as after a bad promotion
        await live.look()
        assert await answered_by(app) == "signs/1"
        assert await metric(app, 'vitray_reloads_total{outcome="done"} 2.0')

    followed(scene)


def test_a_version_that_cannot_be_loaded_is_reported_and_the_old_one_goes_on(followed: Any, models: Models) -> None:
    async def scene(live: Live, app: App, said: list[str]) -> None:
        models.promote(3)
        for _ in range(3):
            await live.look()
        assert len(said) == 1
        assert said[0].startswith("warning: cannot change to it: signs/3: is damaged")
        assert said[0].endswith("signs/1 goes on answering")
        assert await answered_by(app) == "signs/1"
        ready = await ask(app, "GET", "/readyz")
        assert (ready.status, ready.json["model"]) == (200, "signs/1")
        assert "signs/3" in ready.json["warning"]
        assert await metric(app, 'vitray_reloads_total{outcome="failed"} 1.0')
        models.promote(2)
        await live.look()
        assert await answered_by(app) == "signs/2"
        assert (await ask(app, "GET", "/readyz")).json["warning"] is None

    followed(scene)


def test_without_the_registry_it_goes_on_and_says_so_once(followed: Any, models: Models) -> None:
    database = Path(models.uri.removeprefix("sqlite:///"))
    away = database.with_suffix(".away")

    async def scene(live: Live, app: App, said: list[str]) -> None:
        database.rename(away)
        try:
            for _ in range(3):
                await live.look()
            assert len(said) == 1
            assert said[0].startswith("warning: registry sqlite:///")
            assert await answered_by(app) == "signs/1"
            assert await metric(app, "vitray_registry_up 0.0")
            assert "goes on answering" in (await ask(app, "GET", "/readyz")).json["warning"]
        finally:
            away.rename(database)
        await live.look()
        assert said[1:] == ["the registry is back; models:/signs@champion is followed again"]
        assert await metric(app, "vitray_registry_up 1.0")
        assert (await ask(app, "GET", "/readyz")).json["warning"] is None

    followed(scene)


def test_readiness_does_not_tell_the_registrys_password(models: Models) -> None:
    async def go() -> None:
        said: list[str] = []
        live = Live(MODEL, LocalBackend(), metrics=Metrics(), say=said.append, tracking_uri=models.uri)
        await live.start(versions.find(MODEL, models.uri))
        live._tracking_uri = "http://me:opensesame@127.0.0.1:9"  # nobody listens there
        await live.look()
        ready = await ask(App(live, Guard("127.0.0.1"), say=said.append), "GET", "/readyz")
        assert "does not answer" in ready.json["warning"]
        assert "opensesame" not in ready.json["warning"] + said[0]

    models.promote(1)
    asyncio.run(go())


def test_only_an_alias_is_followed() -> None:
    assert versions.may_change("models:/signs@champion")
    assert not versions.may_change("models:/signs/1")
    assert not versions.may_change("./folder@home")


def test_where_the_disk_is_full_the_old_version_goes_on(
    followed: Any, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/cache/models")

    async def scene(live: Live, app: App, said: list[str]) -> None:
        models.promote(2)
        with monkeypatch.context() as patch:
            patch.setattr(versions, "read", full)
            await live.look()
        assert "No space left on device: '/cache/models'; signs/1 goes on answering" in said[0]
        with monkeypatch.context() as patch:
            patch.setattr(versions, "find", full)
            await live.look()
        assert await answered_by(app) == "signs/1"

    followed(scene)
