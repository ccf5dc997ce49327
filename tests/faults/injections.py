"""How many faults a test injects, and what came of them: the table of README's "What it survives" is made of these."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "build" / "faults"


def full() -> bool:
    """Whether this is ``make faults``."""
    return os.environ.get("VITRAY_FAULTS") == "full"


def injections(*, whole: int, few: int) -> int:
    """``whole`` in ``make faults``, else ``few``."""
    return whole if full() else few


def record(row: int, outcome: str, *, held: bool, **figures: Any) -> None:
    """Keep what a row of the table came to; ``outcome`` is a sentence for people, with the numbers.

    Only in ``make faults``. Several tests of a row add to each other.
    """
    if not full():
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    line = {"row": row, "held": held, "outcome": outcome, "figures": figures}
    line |= {"cpus": os.cpu_count(), "date": time.strftime("%Y-%m-%d")}
    with (RESULTS / f"row-{row:02d}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
