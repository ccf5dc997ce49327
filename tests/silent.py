"""A progress of a sweep that shows nothing."""

from __future__ import annotations

from typing import Any


class Silent:
    def update(self, trials: Any) -> None: ...
    def stage(self, text: str) -> None: ...
