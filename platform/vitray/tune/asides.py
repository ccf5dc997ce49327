"""What a trial's ranks say to people while the trial has no result to say it with: that a disk is full, for hours
perhaps.

Tune hears of a trial by its results alone. So a word goes through the small store that Ray's head keeps, where the
driver looks for it every second.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

_NAMESPACE = "vitray"
_EVERY_S = 1.0


class Asides:
    """Of one run of a sweep; goes to its trials by value."""

    def __init__(self) -> None:
        self._prefix = f"aside-{secrets.token_hex(8)}-"
        self._looked = 0.0

    def say(self, text: str) -> None:
        """Never an error: a head that does not answer is for others to notice."""
        key = f"{self._prefix}{time.time_ns():020d}-{secrets.token_hex(4)}"
        with contextlib.suppress(Exception):
            _internal_kv_put(key, json.dumps(text), namespace=_NAMESPACE)

    def hear(self, *, now: bool = False) -> list[str]:
        """What was said since, each word once; it is looked for once a second, unless it has to be ``now``."""
        if not now and time.monotonic() - self._looked < _EVERY_S:
            return []
        self._looked = time.monotonic()
        heard = []
        with contextlib.suppress(Exception):
            for key in sorted(_internal_kv_list(self._prefix, namespace=_NAMESPACE)):
                if (said := _internal_kv_get(key, namespace=_NAMESPACE)) is not None:
                    heard.append(str(json.loads(said)))
                _internal_kv_del(key, namespace=_NAMESPACE)
        return heard
