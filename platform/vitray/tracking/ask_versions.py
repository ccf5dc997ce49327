"""Asking a server (or a database that is not SQLite) for the versions in its registry.

Over HTTP without MLflow where nothing is out of the ordinary: importing MLflow takes longer than the answer. Whenever
something is, MLflow's own client asks: it knows every way to sign in, and its errors are those that we explain.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitray.tracking.mlflow_client import asking, connect, is_server
from vitray.tracking.versions import ModelVersion

# A server answers for 100 versions in 0.07 s, for 500 at once in 0.6 s (MLflow 3.17 on PostgreSQL).
PAGE = 100
_TIMEOUT_S = (5, 60)
# Ways to sign in, and to be somebody else's tenant, that only MLflow's client knows.
_SPECIAL = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE")
_SIGN_IN = ("USERNAME", "PASSWORD", "TOKEN")


def ask_versions(tracking_uri: str, name: str | None = None) -> list[ModelVersion]:
    """All versions (of one model), in any order.

    Raises:
        TrackingError: the store does not answer, or says no.
    """
    question = f"name = '{name}'" if name is not None and "'" not in name else None
    found = _quickly(tracking_uri, question) if is_server(tracking_uri) else None
    return _by_mlflow(tracking_uri, question) if found is None else found


def _quickly(tracking_uri: str, question: str | None) -> list[ModelVersion] | None:
    """Over HTTP, as MLflow's client would ask; None where that one has to."""
    if any(os.environ.get(name) for name in _SPECIAL) or Path("~/.mlflow/credentials").expanduser().exists():
        return None
    import requests  # as MLflow's client does: the same proxies and certificates

    try:
        with requests.Session() as session:
            user, password, token = (os.environ.get(f"MLFLOW_TRACKING_{what}") for what in _SIGN_IN)
            if user and password:
                session.auth = (user, password)
            elif token:
                session.headers["Authorization"] = f"Bearer {token}"
            session.verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or (
                os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false").lower() not in ("true", "1")
            )
            session.cert = os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH") or None

            def pages(noun: str, key: str) -> list[dict[str, Any]]:
                found, token = [], None
                while True:
                    asked = {"max_results": PAGE, "filter": question, "page_token": token}
                    url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/{noun}/search"
                    answer = session.get(url, params=asked, timeout=_TIMEOUT_S)
                    answer.raise_for_status()
                    content = answer.json()
                    found += content.get(key, [])
                    token = content.get("next_page_token")
                    if not token:
                        return found

            models = pages("registered-models", "registered_models")
            versions = pages("model-versions", "model_versions")
        aliases: dict[tuple[str, int], list[str]] = {}
        for model in models:
            for alias in model.get("aliases", []):
                aliases.setdefault((model["name"], int(alias["version"])), []).append(alias["alias"])
        return [
            ModelVersion(
                name=v["name"],
                version=int(v["version"]),
                aliases=tuple(sorted(aliases.get((v["name"], int(v["version"])), []))),
                tags={tag["key"]: tag.get("value", "") for tag in v.get("tags", [])},
                description=v.get("description", ""),
                created_ms=int(v["creation_timestamp"]),
                source=v["source"],
                run_id=v.get("run_id") or None,
            )
            for v in versions
        ]
    except (requests.RequestException, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _by_mlflow(tracking_uri: str, question: str | None) -> list[ModelVersion]:
    with asking(tracking_uri):
        client = connect(tracking_uri)
        aliases: dict[tuple[str, int], list[str]] = {}
        for model in _all(client.search_registered_models, question):
            for alias, number in model.aliases.items():
                aliases.setdefault((model.name, int(number)), []).append(alias)
        return [
            ModelVersion(
                name=v.name,
                version=int(v.version),
                aliases=tuple(sorted(aliases.get((v.name, int(v.version)), []))),
                tags=dict(v.tags),
                description=v.description or "",
                created_ms=v.creation_timestamp,
                source=v.source,
                run_id=v.run_id or None,
            )
            for v in _all(client.search_model_versions, question)
        ]


def _all(search: Callable[..., Any], question: str | None) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = search(filter_string=question, max_results=PAGE, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found
