"""A Ray cluster's dashboard, which takes jobs: found from an address, asked over HTTP, without importing Ray.

Ray's own client takes seconds to import, sends no token unless ``RAY_AUTH_MODE=token`` is exported, and waits for ever
where nobody answers.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from vitray.cluster.guard import on_loopback, refuse_unguarded
from vitray.cluster.job_address import DEFAULT, FORMS, TUNNEL, named_dashboard
from vitray.cluster.token import token_at_hand, token_refused
from vitray.errors import ResourceError, VitrayError
from vitray.masking import public

_CONNECT_S, _ANSWER_S = 3.0, 60.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token along to whoever it names."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


@dataclass(frozen=True)
class Dashboard:
    """One cluster's dashboard at ``url``; ``token`` is None where it asks for none."""

    url: str
    token: str | None = field(default=None, repr=False)
    ray_version: str = ""
    session: str = ""

    def get(self, path: str, **query: object) -> Any:
        """The JSON that is answered at a path.

        Raises:
            ResourceError: nobody answers, or the token is refused.
            VitrayError: the dashboard answers with an error.
        """
        return self._ask("GET", _with_query(path, query))

    def post(self, path: str, values: Mapping[str, object] | None = None) -> Any:
        """As :meth:`get`, of a request that changes something."""
        body = None if values is None else json.dumps(values).encode()
        return self._ask("POST", path, body, {"Content-Type": "application/json"} if body else {})

    def now(self) -> Dashboard:
        """The same address as it is now: another ``session`` where the head was started anew.

        Raises:
            ResourceError: nobody answers, or the token is refused.
        """
        found = _version(self)
        if found is None:
            raise token_refused(self.url, None)
        return found

    def has(self, path: str) -> bool:
        """Whether there is anything at a path."""
        return self._ask("GET", path, missing_ok=True) is not None

    def put(self, path: str, body: bytes) -> None:
        self._ask("PUT", path, body, {"Content-Type": "application/octet-stream"})

    def stream(self, path: str, **query: object) -> Iterator[bytes]:
        """Bytes as they come, for as long as the server sends any; empty ones say that for a while none came.

        The stream ends when either side closes it.
        """
        with self._open("GET", _with_query(path, query)) as answer:
            while True:
                try:
                    chunk = answer.read1(1 << 16)
                except (OSError, HTTPException):
                    return
                if not chunk:
                    return
                yield chunk

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        missing_ok: bool = False,
    ) -> Any:
        try:
            with self._open(method, path, body, headers or {}) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_ok:
                return None
            raise _refused(self.url, error, self.token) from None
        except (OSError, HTTPException) as error:
            raise _silent(self.url, error) from None
        try:
            return json.loads(said) if said else {}
        except ValueError:
            raise _no_dashboard(self.url) from None

    def _open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> HTTPResponse:
        request = urllib.request.Request(self.url + path, method=method, data=body, headers=dict(headers or {}))
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if on_loopback(urlsplit(self.url).hostname or ""):  # no proxy leads there
            handlers.append(urllib.request.ProxyHandler({}))
        answer: HTTPResponse = urllib.request.build_opener(*handlers).open(
            request, timeout=_CONNECT_S if path == "/api/version" else _ANSWER_S
        )
        return answer


def find_dashboard(address: str | None = None) -> Dashboard:
    """The dashboard that is meant, by ``address``, else ``RAY_API_SERVER_ADDRESS``, else ``RAY_ADDRESS``,
    else the usual one of this machine.

    It is first asked without a token; one is sent only where it is wanted.

    Raises:
        ConfigError: not an address of a dashboard or a head node.
        ResourceError: nobody answers there, or something else does; the token is missing or refused; no token is asked
            for although the cluster can be reached from other machines.
    """
    named = named_dashboard(address)
    url = named or DEFAULT
    try:
        open_to_all = _version(Dashboard(url))
    except ResourceError as error:
        if named is None:
            error.what += "; and no address was given"
            error.remedy = "name a cluster with --address http://HEAD:8265, or start one here: `ray start --head`"
        raise
    if open_to_all is not None:
        refuse_unguarded(url, urlsplit(url).hostname or "")
        return open_to_all
    token = token_at_hand()
    if token is None:
        raise token_refused(url, None)
    found = _version(Dashboard(url, token))
    assert found is not None
    return found


def _version(dashboard: Dashboard) -> Dashboard | None:
    """The dashboard with what it says of itself; None where it wants a token and got none."""
    try:
        with dashboard._open("GET", "/api/version") as answer:
            said = json.loads(answer.read(1 << 16))
        return Dashboard(dashboard.url, dashboard.token, said["ray_version"], said["session_name"])
    except urllib.error.HTTPError as error:
        if error.code == 401 and dashboard.token is None:
            return None
        if error.code in (401, 403):
            raise _refused(dashboard.url, error, dashboard.token) from None
    except (ValueError, KeyError, TypeError, HTTPException):
        pass
    except OSError as error:
        raise _silent(dashboard.url, error) from None
    raise _no_dashboard(dashboard.url)


def _silent(url: str, error: Exception) -> ResourceError:
    reason: Any = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLError):
        what = f"the encrypted connection failed: {getattr(reason, 'verify_message', '') or reason.reason or reason}"
        return ResourceError(what, where=url, remedy="write http:// unless a proxy encrypts; SSL_CERT_FILE names a CA")
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return ResourceError(
        f"no Ray dashboard answers: {text}",
        where=url,
        remedy=f"give the address that `ray start --head` printed (port 8265 unless set otherwise); {TUNNEL}",
    )


def _no_dashboard(url: str) -> ResourceError:
    return ResourceError("something answers there, but it is no Ray dashboard", where=url, remedy=f"give {FORMS}")


def _refused(url: str, error: urllib.error.HTTPError, token: str | None) -> VitrayError:
    if error.code in (401, 403):
        return token_refused(url, token)
    text = error.read(1 << 16).decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else error.reason  # Ray answers with a traceback
    return VitrayError(f"the cluster's dashboard answers {error.code}: {public(last)}", where=url)


def _with_query(path: str, query: Mapping[str, object]) -> str:
    return f"{path}?{urlencode(query, quote_via=quote)}" if query else path
