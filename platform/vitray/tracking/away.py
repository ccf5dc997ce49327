"""What cannot be done without the tracking store waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vitray.errors import StoreAwayError

PATIENCE_S = 600.0
_FIRST_S, _LONGEST_S = 1.0, 15.0  # between two tries
T = TypeVar("T")


def when_it_answers(ask: Callable[[], T], tell: Callable[[str], None]) -> T:
    """What ``ask`` returns, which may be asked again. ``tell``: says a sentence to people, once, if it has to wait.

    Raises:
        StoreAwayError: the store has not answered for ten minutes.
    """
    until, pause = 0.0, _FIRST_S
    while True:
        try:
            return ask()
        except StoreAwayError as error:
            if not until:
                until = time.monotonic() + PATIENCE_S
                tell(f"{error.where}: {error.what}; going on when that is over")
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
