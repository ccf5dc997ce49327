"""``vitray models compare``: two models side by side, and on the same images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.output import emit, grid, note, output_option
from vitray.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from vitray.inference.compare import Paired

_FEW = 20  # classes to list; of more, those that differ most


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--data", metavar="DATA", help="A dataset to try both on: a folder, a URI or builtin:digits.")
@click.option("--split", default="test", show_default=True, help="Which of its splits.")
@click.option("--device", default="cpu", show_default=True, help="Where the models run: cpu, cuda, ...")
@output_option
def compare(first: str, second: str, data: str | None, split: str, device: str, output: str) -> None:
    """Compare the models A and B (NAME@alias, NAME/version, NAME, or folders): config, metrics and size.

    With --data both answer the same images: accuracy and the 95 % interval of its difference, McNemar's test, how often
    they agree, and accuracy by class.
    """
    from vitray.cli.models_reference import Referred

    one, other = Referred.of(first), Referred.of(second)
    facts: dict[str, Any] = {"a": one.as_json(), "b": other.as_json()}
    rows = [[key, *values] for key, *values in _side_by_side(one, other)]
    text = grid(rows, ["", one.label, other.label])
    if data is not None:
        paired = _on_the_same_images(one.package, other.package, data, split, device)
        facts["images"] = {"data": data, "split": split, **vars(paired), "difference": paired.difference}
        text += "\n\n" + _verdict(paired, one.label, other.label) + "\n\n" + _classes(paired, one.label, other.label)
    else:
        note("which is better? try both on the same images: --data builtin:digits, or a dataset's folder")
    emit(facts, output, table=lambda: text)


def _side_by_side(one: Any, other: Any) -> list[tuple[str, str, str]]:
    """All that is known of either; what differs is marked."""
    keys = list(dict.fromkeys([*one.facts, *other.facts]))
    found = []
    for key in keys:
        a, b = one.facts.get(key, ""), other.facts.get(key, "")
        found.append((key if a == b else f"* {key}", a, b))
    return found


def _on_the_same_images(first: Path, second: Path, data: str, split: str, device: str) -> Paired:
    from vitray.data.images import ShardedImages
    from vitray.inference.compare import compare as pair
    from vitray.inference.score import score_package
    from vitray.models.package import read_info

    images = ShardedImages.open(data)
    classes = [set(read_info(package)[0].classes) for package in (first, second)]
    if classes[0] != classes[1]:
        odd = sorted(classes[0] ^ classes[1])
        raise DataError(
            f"the models know different classes, e.g. {odd[0]!r}", remedy="compare models of the same classes"
        )
    return pair(score_package(first, images, split, device), score_package(second, images, split, device))


def _verdict(paired: Paired, a: str, b: str) -> str:
    low, high = paired.interval
    better = f"{a} is better" if low > 0 else f"{b} is better" if high < 0 else "no difference is seen"
    table = [
        [f"{a} right", paired.both, paired.only_first],
        [f"{a} wrong", paired.only_second, paired.neither],
    ]
    return (
        f"{better}: {paired.first:.4f} against {paired.second:.4f} on {paired.images} images, difference "
        f"{paired.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f})\n"
        f"McNemar's exact test: p = {paired.p_value:.3g}; same answer to {paired.agreement:.1%} of the images\n\n"
        + grid(table, ["images", f"{b} right", f"{b} wrong"])
    )


def _classes(paired: Paired, a: str, b: str) -> str:
    found = list(paired.per_class.items())
    more = ""
    if len(found) > _FEW:
        found.sort(key=lambda item: -abs(item[1][0] - item[1][1]))
        more = f"\n({len(found) - _FEW} more classes, which differ less; all of them with --output json)"
    rows = [[name, f"{x:.4f}", f"{y:.4f}", f"{x - y:+.4f}", n] for name, (x, y, n) in found[:_FEW]]
    return grid(rows, ["class", a, b, "difference", "images"]) + more
