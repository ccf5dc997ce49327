"""What must not be shown: passwords, keys and tokens, masked in whatever leaves this process for others to read.

Three things are taken for secrets: the user's part and the keys of a URI; the value of an environment variable whose
name says that it is one (``AWS_SECRET_ACCESS_KEY``, ``HF_TOKEN``); and the value of a config key whose name does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MASK = "***"
# Secrets are not always encoded as they should be (AWS's hold "/" and "+", others "?" and "@"), so everything up to the
# last "@" goes. Lengths are bounded: an error may quote a text of megabytes, and this must not hold up who reports it.
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)([^\s@?:/]{0,100}:\S{0,300}|[^\s/@?]{0,300})@")
_PASSWORD_IN_URI = re.compile(r"://[^\s/@?:]{0,100}:(\S{1,300})@")
_NAMES = "key|secret|token|pass|pwd|sig|sas|auth|credential"
_QUERY = re.compile(rf"([?&][^\s=&?]{{0,64}}(?:{_NAMES})[^\s=&?]{{0,64}}=)[^\s&'\"]+", re.IGNORECASE)
_CONNECTION = re.compile(r"\b((?:AccountKey|SharedAccessKey|SharedAccessSignature|Password|Pwd)=)[^;\s&'\"]+", re.I)
_WORDS = {"apikey", "auth", "credential", "credentials", "key", "pass", "passphrase", "passwd", "password", "pat"}
_WORDS |= {"pwd", "secret", "secrets", "sshpass", "token", "tokens"}
_ENDS = ("password", "passwd", "secret", "token", "apikey", "secretkey")  # PGPASSWORD, AUTHTOKEN
_HARMLESS_END = {"dir", "file", "mode", "path", "sock", "url", "user", "username", "id"}  # where it lies is no secret
_SHORTEST = 6  # characters; masking "true" wherever it occurs would make every text unreadable


def public(text: str) -> str:
    """``text`` with the credentials of every URI in it masked: fit for manifests, messages and logs."""
    return _CONNECTION.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text)))


def masked(text: str, environment: Mapping[str, str] | None = None) -> str:
    """:func:`public`, and every secret value of the environment (this process's by default) masked too."""
    return _without(text, secret_values(os.environ if environment is None else environment))


def masked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping whose texts are :func:`masked`; where a key names a secret, the whole value is."""
    secrets = secret_values(os.environ)
    return {key: _masked(key, value, secrets) for key, value in values.items()}


def secret_values(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets among environment variables, the longest first: one may be a part of another."""
    return _secrets_of(tuple(environment.items()))


@lru_cache(maxsize=4)  # thousands of variables are usual in some clusters, and they hardly ever change
def _secrets_of(variables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    found = set()
    for name, value in variables:
        if is_secret_name(name):
            found.add(value)
        found.update(_PASSWORD_IN_URI.findall(value))
    return tuple(sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True))


def is_secret_name(name: str) -> bool:
    """Whether the name of a variable or of a config key says that its value is a secret."""
    if name.lower() in ("pwd", "oldpwd"):  # the shell's working directory
        return False
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if words[-1] in _HARMLESS_END:
        return False
    return not _WORDS.isdisjoint(words) or words[-1].endswith(_ENDS) or words[-2:] == ["connection", "string"]


def _without(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return public(text)


def _masked(key: str, value: Any, secrets: tuple[str, ...]) -> Any:
    if is_secret_name(key) and value not in (None, "", True, False):
        return MASK
    return _without(value, secrets) if isinstance(value, str) else value
