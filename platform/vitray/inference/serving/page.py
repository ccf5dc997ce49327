"""The page at ``/``: one file that asks nobody but this server, and a policy that holds the browser to it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Page:
    html: str
    headers: dict[str, str]


def load() -> Page:
    """Only the script and the style of the file itself may run, by their digests: nothing else could, were it there."""
    html = Path(__file__).with_name("page.html").read_text()
    policy = {
        "default-src": "'none'",
        "script-src": _digest(html, "script"),
        "style-src": _digest(html, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    said = "; ".join(f"{name} {value}" for name, value in policy.items())
    return Page(html, {"content-type": "text/html; charset=utf-8", "content-security-policy": said})


def _digest(html: str, element: str) -> str:
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
