"""URIs of storage: which text is one, and what of it may be shown."""

from __future__ import annotations

import re

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")
# Secrets are not always encoded as they should be (AWS's hold "/" and "+"), so everything up to the "@" goes.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s@?]*:[^\s?]*|[^\s/@?]*)@")
_SECRET = re.compile(
    r"([?&][^\s=&?]*(?:key|secret|token|password|sig|sas|credential)[^\s=&?]*=)[^\s&'\"]+", re.IGNORECASE
)


def is_uri(text: str) -> bool:
    """Whether ``text`` is a URI (``s3://...``) rather than a local path."""
    return bool(_URI.match(text))


def public(text: str) -> str:
    """``text`` with the credentials of every URI in it masked: fit for manifests, messages and logs."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))
