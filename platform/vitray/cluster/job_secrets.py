"""Secrets that would leave with a job: its environment, words and metadata can be read by all who list jobs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from vitray.errors import ConfigError
from vitray.masking import is_secret_name, masked, public, secret_values

_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_TELLING = 12  # characters: the password "vitray" of a database is in many a path without being given away
_REMEDY = (
    "put it into the environment of the cluster's nodes, where its jobs find it: what is sent with a job can be read "
    "by all who list jobs"
)


def refuse_secrets(texts: Mapping[str, str]) -> None:
    """Make sure that none of these texts (by what they are) holds a credential.

    Raises:
        ConfigError: one does; it is not repeated in the message.
    """
    for what, text in texts.items():
        long = (value for value in secret_values(os.environ) if len(value) >= _TELLING)
        if public(text) != text or any(value in text for value in long):
            raise ConfigError(f"holds a credential ({masked(text)})", where=what, remedy=_REMEDY)


def parse_variables(given: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE``, or ``NAME`` for this process's value, as environment variables of a job.

    Raises:
        ConfigError: not set here, or a secret by its name or its form.
    """
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not name.isidentifier():
            raise ConfigError("is not a variable", where=f"--env {public(word)}", remedy="write NAME=VALUE or NAME")
        if not equals:
            if name not in os.environ:
                raise ConfigError("is not set here", where=f"--env {name}", remedy=f"write {name}=VALUE")
            value = os.environ[name]
        if is_secret_name(name):
            raise ConfigError("is a credential by its name", where=f"--env {name}", remedy=_REMEDY)
        found[name] = value
    refuse_secrets({f"--env {name}": value for name, value in found.items()})
    return found


def credentials_left() -> list[str]:
    """Variables for the tracking server that are set here and stay here."""
    return [name for name in _CREDENTIALS if os.environ.get(name)]
