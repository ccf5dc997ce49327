"""The batcher: requests share calls when calls are slower than requests, and never wait for company."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from vitray.inference.serving.batching import Batcher, BusyError
from vitray.inference.serving.contract import Answer

CLASSES = tuple((name, 0.1) for name in "abcdefgh")


class Model:
    """Answers with the images' own text as an error, so that every answer shows whose it is."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.asked: list[int] = []
        self.gate = asyncio.Event()
        self.fails = False

    async def __call__(self, images: Sequence[bytes], top_k: int) -> list[Answer]:
        self.sizes.append(len(images))
        self.asked.append(top_k)
        fails = self.fails
        await self.gate.wait()
        if fails:
            raise RuntimeError("the model broke")
        return [Answer(CLASSES[:top_k], image.decode()) for image in images]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_comes_while_a_batch_is_under_way_leaves_as_one() -> None:
    async def go() -> None:
        model = Model()
        batcher = Batcher(model, max_batch=8, in_flight=1)
        tasks = [asyncio.create_task(batcher.ask([b"first"], 1))]
        await settle()
        assert model.sizes == [1]  # it did not wait for the others
        for i in range(20):
            tasks.append(asyncio.create_task(batcher.ask([b"%d" % i, b"%d again" % i], 1 + i % 5)))
            await settle()
        assert model.sizes == [1]
        assert batcher.waiting == 40
        assert not batcher.idle
        model.gate.set()
        answers = await asyncio.gather(*tasks)
        assert model.sizes == [1, 8, 8, 8, 8, 8]
        for i, said in enumerate(answers[1:]):
            assert [a.error for a in said] == [str(i), f"{i} again"]
            assert {a.top for a in said} == {CLASSES[: 1 + i % 5]}  # though the batch was asked for five
        assert model.asked[1:] == [4, 5, 5, 5, 5]
        await settle()
        assert batcher.idle

    asyncio.run(go())


def test_requests_of_one_moment_leave_together_and_max_batch_1_keeps_them_apart() -> None:
    async def sizes(max_batch: int) -> list[int]:
        model = Model()
        model.gate.set()
        batcher = Batcher(model, max_batch=max_batch, in_flight=4)
        await asyncio.gather(*(batcher.ask([b"x"], 1) for _ in range(6)))
        return model.sizes

    assert asyncio.run(sizes(32)) == [6]
    assert asyncio.run(sizes(1)) == [1] * 6


def test_a_broken_batch_fails_its_own_requests_and_no_other() -> None:
    async def go() -> None:
        model = Model()
        batcher = Batcher(model, max_batch=2, in_flight=1)
        model.fails = True
        broken = [asyncio.create_task(batcher.ask([b"a", b"b"], 1))]
        await settle()
        model.fails = False
        late = asyncio.create_task(batcher.ask([b"c"], 1))
        model.gate.set()
        for said in await asyncio.gather(*broken, return_exceptions=True):
            assert isinstance(said, RuntimeError)
        assert (await late)[0].error == "c"

    asyncio.run(go())


def test_a_client_that_goes_away_takes_nobody_along() -> None:
    async def go() -> None:
        model = Model()
        batcher = Batcher(model, max_batch=4, in_flight=1)
        gone, stays = (asyncio.create_task(batcher.ask([name], 1)) for name in (b"gone", b"stays"))
        await settle()
        gone.cancel()
        await settle()
        model.gate.set()
        assert (await stays)[0].error == "stays"
        await settle()
        assert batcher.idle

    asyncio.run(go())


def test_more_than_there_is_room_for_is_refused_whole() -> None:
    async def go() -> None:
        model = Model()
        batcher = Batcher(model, max_batch=4, in_flight=1, room=5)
        first = asyncio.create_task(batcher.ask([b"x"] * 4, 1))
        await settle()
        more = asyncio.create_task(batcher.ask([b"y"] * 4, 1))
        await settle()
        with pytest.raises(BusyError, match="4 images wait"):
            await batcher.ask([b"z"] * 2, 1)
        model.gate.set()
        assert len(await first) + len(await more) == 8
        assert model.sizes == [4, 4]

    asyncio.run(go())
