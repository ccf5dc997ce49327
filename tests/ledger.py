"""Who took which samples in which step, written down by the ranks; and what of it the weights of a run have seen.

A rank writes before it trains: what was written and not trained is taken again by whoever goes on from the checkpoint
before it, so that the newest that took a step is whose work counts. ``serve_with_ledger`` is sent to ranks by value in
place of their serving function: nothing in the product knows of it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


def serve_with_ledger(folder: str, given: dict[str, Any]) -> None:
    """What a rank does all its life, with a file of its own for what it takes and one for where it is.

    Where it is while a file ``slow <there>`` is in the folder, it stays two seconds longer.
    """
    import json
    import os
    import time
    from pathlib import Path

    import vitray.train.loop as loop
    import vitray.train.serve as serving
    from vitray.train.whereabouts import Whereabouts

    begun, train_step, at = time.time(), loop.train_step, Whereabouts.at
    name = f"{begun:.6f}-{os.getpid()}"

    def written_step(model: Any, state: Any, batch: Any, feed: Any) -> Any:
        ranks, samples = feed.ranks, batch.sample_id[batch.weight > 0].tolist()
        line = {"step": batch.step + 1, "rank": ranks.rank, "size": ranks.world_size, "samples": samples}
        with (Path(folder) / f"{name}.steps").open("a") as file:
            print(json.dumps({**line, "at": time.time()}), file=file)
        return train_step(model, state, batch, feed)

    def written_at(self: Any, doing: str, step: int | None = None) -> None:
        at(self, doing, step)
        with (Path(folder) / f"{name}.doing").open("w") as file:
            file.write(doing)
        if (Path(folder) / f"slow {doing}").exists():
            time.sleep(2.0)

    loop.train_step, Whereabouts.at = written_step, written_at  # type: ignore[method-assign]
    serving.serve(given)


def serving(folder: Path) -> Callable[[dict[str, Any]], None]:
    """A serving function that writes into ``folder``; this module has to be registered to go by value."""
    folder.mkdir(parents=True, exist_ok=True)
    return partial(serve_with_ledger, str(folder))


@dataclass(frozen=True)
class Taken:
    """A step as one process of a rank took it."""

    step: int
    rank: int
    size: int
    samples: tuple[int, ...]
    at: float


class Ledger:
    """All that was taken, by process, oldest process first."""

    def __init__(self, folder: Path) -> None:
        self.processes: list[list[Taken]] = []
        for path in sorted(folder.glob("*.steps")):
            taken = []
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last one of a rank that was killed
                    said = json.loads(line)
                    taken.append(Taken(**{**said, "samples": tuple(said["samples"])}))
            if taken:
                self.processes.append(taken)

    @property
    def steps(self) -> int:
        """Of the last step that was taken."""
        return max((taken[-1].step for taken in self.processes), default=0)

    def seen(self) -> dict[int, tuple[int, ...]]:
        """By step, the samples of all ranks in rank order, as the newest weights have seen them.

        A process goes on from a checkpoint: of all that took a step, the newest did so for good.
        """
        newest: dict[tuple[int, int], Taken] = {}
        for process in self.processes:
            rank, first = process[0].rank, process[0].step
            # Whatever an earlier process of this rank took from here on was not kept.
            newest = {key: taken for key, taken in newest.items() if key[1] != rank or key[0] < first}
            newest |= {(taken.step, rank): taken for taken in process}
        seen = {}
        for step in sorted({step for step, _ in newest}):
            size = newest[step, 0].size
            seen[step] = tuple(sample for rank in range(size) for sample in newest[step, rank].samples)
        return seen

    def done_again(self) -> int:
        """Steps that were taken more than once, each time more counted."""
        times = Counter(taken.step for process in self.processes for taken in process if taken.rank == 0)
        return sum(count - 1 for count in times.values())

    def next_step_after(self, moment: float, *, of_new_processes: bool = True) -> float | None:
        """Seconds from a moment to the next step, by default of a process that took none before."""
        took = (taken.at for process in self.processes for taken in (process[:1] if of_new_processes else process))
        return min((at - moment for at in took if at > moment), default=None)


def missing_and_doubled(seen: Mapping[int, tuple[int, ...]], rows: int, steps_per_epoch: int) -> tuple[int, int]:
    """Samples of an epoch that were not seen in it, and those that were seen again, over all epochs."""
    missing = doubled = 0
    for begin in range(1, max(seen) + 1, steps_per_epoch):
        counts = Counter(sample for step in range(begin, begin + steps_per_epoch) for sample in seen.get(step, ()))
        missing += rows - len(counts)
        doubled += sum(counts.values()) - len(counts)
    return missing, doubled
