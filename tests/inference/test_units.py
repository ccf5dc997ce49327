"""Units of work: every image in exactly one, in order, however chunks lie; few enough, and large enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vitray.data.sources.source import Chunk, Item
from vitray.inference.units import cut, unit_images
from vitray.model_config import ModelConfig


class Numbered:
    """A source whose items are numbered from one chunk to the next; some chunks do not say how many they hold."""

    name, rereads, class_names = "numbered", False, None

    def __init__(self, sizes: list[int], told: list[bool]) -> None:
        self.sizes, self.told = sizes, told

    def chunks(self) -> Sequence[Chunk]:
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        return [Chunk(i, starts[i], size if self.told[i] else None) for i, size in enumerate(self.sizes)]

    def items(self, chunk: Chunk) -> Iterator[Item]:
        for number in range(chunk.place, chunk.place + self.sizes[chunk.number]):
            yield Item(str(number), "", b"")

    def reread(self, place: Any) -> bytes:
        raise AssertionError


@given(st.lists(st.tuples(st.integers(0, 700), st.booleans()), max_size=30), st.integers(1, 300))
def test_units_hold_every_image_once_and_in_order(sizes: list[tuple[int, bool]], size: int) -> None:
    source = Numbered([s for s, _ in sizes], [told for _, told in sizes])
    units = cut(source.chunks(), size)
    assert [unit.number for unit in units] == list(range(len(units)))
    inside = [[int(item.key) for item in unit.items(source)] for unit in units]
    assert [number for numbers in inside for number in numbers] == list(range(sum(source.sizes)))
    for unit, numbers in zip(units, inside, strict=True):
        assert unit.images in (None, len(numbers))
        if all(chunk.images is not None and chunk.images < 2 * size for chunk in unit.chunks):
            assert len(numbers) <= max(size, max((chunk.images or 0 for chunk in unit.chunks), default=0))
    assert units == cut(source.chunks(), size)  # a second scoring finds the first one's units


def test_a_heavy_model_has_small_units_and_no_source_too_many() -> None:
    light = ModelConfig(image_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=2)
    heavy = ModelConfig.preset("vit_base", patch_size=16, image_size=224, in_chans=3, num_classes=1000)
    assert unit_images(heavy, 1_000_000, 2) < unit_images(light, 1_000_000, 2)
    assert unit_images(light, 1000, 8) < 1000 / 8  # all workers have some
    for config in (light, heavy):
        for total in (0, 1, 10**6, 10**9):
            for gpu in (False, True):
                size = unit_images(config, total, 4, gpu=gpu)
                assert size >= 64
                assert total / size <= 10_000
