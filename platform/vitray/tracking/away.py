"""What cannot be done without the tracking store waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vitray.errors import StoreAwayError

PATIENCE_S = 600.0
_FIRST_S, _LONGEST_S = 1.0, 15.0  # between two tries
_ONE_S = 60.0  # what one try can use up: the rest of a longer one was work that needs no store
T = TypeVar("T")


def when_it_answers(ask: Callable[[], T], tell: Callable[[str], None]) -> T:
    """What ``ask`` returns, which may be asked again. ``tell``: says a sentence to people, once, if it has to wait.

    Only tries that fail use up patience, and the pauses after them.

    Raises:
        StoreAwayError: the store has not answered for ten minutes in all.
    """
    left, pause, told = PATIENCE_S, _FIRST_S, False
    while True:
        began = time.monotonic()
        try:
            return ask()
        except StoreAwayError as error:
            if not told:
                tell(f"{error.where}: {error.what}; going on when that is over")
            told = True
            left -= pause + min(time.monotonic() - began, _ONE_S)
            if left < 0:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_S)
