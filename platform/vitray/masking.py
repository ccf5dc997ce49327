"""What must not be shown: passwords, keys and tokens, masked in whatever leaves this process for others to read.

Three things are taken for secrets: the user's part and the keys of a URI; the value of an environment variable whose
name says that it is one (``AWS_SECRET_ACCESS_KEY``, ``HF_TOKEN``); and the value of a config key whose name does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# Secrets are not always encoded as they should be (AWS's hold "/" and "+"), so everything up to the "@" goes.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^\s@?]*:[^\s?]*|[^\s/@?]*)@")
_QUERY = re.compile(
    r"([?&][^\s=&?]*(?:key|secret|token|password|sig|sas|credential)[^\s=&?]*=)[^\s&'\"]+", re.IGNORECASE
)
_WORDS = {"apikey", "credential", "credentials", "key", "pass", "passphrase", "passwd", "password", "pat", "pwd"}
_WORDS |= {"secret", "secrets", "token", "tokens"}
_HARMLESS_END = {"dir", "file", "mode", "path", "url", "user", "username", "id"}  # where it lies is no secret
_PASSWORD_IN_URI = re.compile(r"://[^\s/@?:]*:([^\s@?]+)@")
_SHORTEST = 6  # characters; masking "true" wherever it occurs would make every text unreadable


def public(text: str) -> str:
    """``text`` with the credentials of every URI in it masked: fit for manifests, messages and logs."""
    return _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text))


def masked(text: str, environment: Mapping[str, str] | None = None) -> str:
    """:func:`public`, and every secret value of the environment (this process's by default) masked too."""
    for secret in secret_values(os.environ if environment is None else environment):
        text = text.replace(secret, MASK)
    return public(text)


def masked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping whose texts are :func:`masked`; where a key names a secret, the whole value is."""
    return {key: _masked(key, value) for key, value in values.items()}


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The secrets among environment variables, the longest first: one may be a part of another."""
    found = set()
    for name, value in environment.items():
        if is_secret_name(name):
            found.add(value)
        found.update(_PASSWORD_IN_URI.findall(value))
    return sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable or of a config key says that its value is a secret."""
    if name.lower() in ("pwd", "oldpwd"):  # the shell's working directory
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return words[-1] not in _HARMLESS_END and not _WORDS.isdisjoint(words)


def _masked(key: str, value: Any) -> Any:
    if is_secret_name(key) and value not in (None, "", True, False):
        return MASK
    return masked(value) if isinstance(value, str) else value
