"""Which rows make up each split, and in what order: by fractions of all images, or as the source divides them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vitray.data.facts import Facts
from vitray.data.manifest import SPLITS
from vitray.data.options import PrepareOptions
from vitray.data.plan import assign_splits, shuffled
from vitray.data.rng import I64
from vitray.errors import DataError


@dataclass(frozen=True)
class Placement:
    """Rows of the facts for each split, in the order of their sample ids; usable rows left out, and why."""

    rows: dict[str, I64]
    dropped: dict[int, str] = field(default_factory=dict)


def place(facts: Facts, options: PrepareOptions) -> Placement:
    """Put every usable image into a split. Equal bytes are never in two.

    Raises:
        DataError: a class has no usable image (or none to train on), or a split that was asked for stays empty.
    """
    usable = facts.usable()
    labels, twins = facts.column("label", usable), facts.twins(usable)
    order = shuffled(facts.keys(usable), "split", options.seed)
    dropped: dict[int, str] = {}
    if options.splits == "fractions":
        split = assign_splits(order, labels, twins, options.shares)
        wanted = [name for name, share in zip(SPLITS, options.shares, strict=True) if share > 0]
    else:
        split = _given(facts, usable)
        dropped = _without_leaks(facts, usable, split, twins)
        _fill_missing(split, order, labels, twins, options.fractions or (1.0, 0.0, 0.0))
        wanted = [SPLITS[0]]
    _check_classes(facts, labels[split >= 0], labels[split == 0])
    mixed = shuffled(facts.keys(usable), "rows", options.seed)
    rows = {name: usable[mixed[split[mixed] == number]] for number, name in enumerate(SPLITS)}
    for name in wanted:
        if not len(rows[name]):
            raise DataError(
                f"{len(usable)} images in {len(facts.classes)} classes leave none for {name!r}",
                where=facts.source,
                remedy="add images, or give that split the share 0 with --fractions",
            )
    return Placement(rows, dropped)


def _given(facts: Facts, usable: I64) -> npt.NDArray[np.int8]:
    column = facts.table["split"].take(usable)
    if column.null_count:
        row = int(usable[int(np.argmax(column.is_null().to_numpy()))])
        raise DataError(
            "the source does not say which split this image belongs to",
            where=facts.key(row),
            remedy="leave --splits out, to split by fractions",
        )
    return np.array(column.to_numpy(), dtype=np.int8)


def _without_leaks(facts: Facts, usable: I64, split: npt.NDArray[np.int8], twins: I64) -> dict[int, str]:
    """Of equal images in several splits keep those in the most held-out one; ``split`` of the others becomes -1."""
    most = np.full(int(twins.max(initial=-1)) + 1, -1, dtype=np.int8)
    np.maximum.at(most, twins, split)
    leaks = np.flatnonzero(split < most[twins])
    kept = np.flatnonzero(split == most[twins])
    _, first = np.unique(twins[kept], return_index=True)  # every set of twins has one, so twin numbers index this
    reasons = {}
    for position in leaks.tolist():
        twin = twins[position]
        keeper = facts.key(int(usable[kept[first[twin]]]))
        reasons[int(usable[position])] = f"duplicate of {keeper} in split {SPLITS[most[twin]]}"
    split[leaks] = -1
    return reasons


def _fill_missing(split: npt.NDArray[np.int8], order: I64, labels: I64, twins: I64, fractions: Sequence[float]) -> None:
    """A held-out split that the source lacks is taken from train, as far as its fraction was asked for."""
    shares = [share if not (split == number).any() else 0.0 for number, share in enumerate(fractions)]
    shares[0] = 1 - sum(shares[1:])
    if shares[0] == 1:
        return
    train = np.flatnonzero(split == 0)
    position = np.full(len(split), -1)
    position[train] = np.arange(len(train))
    among = position[order]
    _, dense = np.unique(twins[train], return_inverse=True)
    split[train] = assign_splits(among[among >= 0], labels[train], dense.astype(np.int64), shares)


def _check_classes(facts: Facts, used: I64, trained: I64) -> None:
    known = np.unique(facts.table["label"].drop_null().to_numpy())
    for have, lacks in ((used, "has no usable image"), (trained, "has no image to train on")):
        for label in np.setdiff1d(known, have).tolist():
            raise DataError(
                f"class {facts.classes[label]!r} {lacks}",
                where=facts.source,
                remedy="mend its images, or remove the class",
            )
