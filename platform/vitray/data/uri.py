"""URIs of storage: which text is one."""

from __future__ import annotations

import re

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


def is_uri(text: str) -> bool:
    """Whether ``text`` is a URI (``s3://...``) rather than a local path."""
    return bool(_URI.match(text))
