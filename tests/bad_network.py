"""A proxy in front of a real server (MLflow, S3) that does to chosen requests what networks do."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What happens to a request, by its method and path: "pass"; a status that is answered instead; seconds by which the
# answer comes late; "lose": the server gets the request, and its answer never arrives.
Rule = Callable[[str, str], str | int | float]
_BY_HOP = {"transfer-encoding", "expect", "content-length"}
_OURS = {"connection", "content-type", "date", "server", "transfer-encoding"}  # headers that are said anew


class BadNetwork:
    """Forwards requests to 127.0.0.1:port as ``rule`` says; counts what it forwarded and what it spoilt."""

    def __init__(self, port: int) -> None:
        self.rule: Rule = lambda method, path: "pass"
        self.forwarded: list[str] = []
        self.spoilt = 0
        network = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self._body()
                rule = network.rule(self.command, self.path)
                if rule != "pass":
                    network.spoilt += 1
                if isinstance(rule, int):
                    self._say(rule, b"<html>the proxy is in trouble</html>", "text/html")
                    return
                if isinstance(rule, float):
                    time.sleep(rule)
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                # The host as the server knows itself: it refuses others. Its port differs from ours.
                asked = {k: v for k, v in self.headers.items() if k.lower() not in _BY_HOP}
                headers = {**asked, "Host": f"127.0.0.1:{port}", "Connection": "close"}
                try:
                    upstream.request(self.command, self.path, body, headers)
                    reply = upstream.getresponse()
                    content = reply.read()
                except (OSError, http.client.HTTPException):  # the server is gone
                    network.spoilt += 1
                    self._say(502, b"<html>bad gateway</html>", "text/html")
                    return
                finally:
                    upstream.close()
                network.forwarded.append(f"{self.command} {self.path.partition('?')[0]}")
                if rule == "lose":
                    self.close_connection = True
                    self.connection.close()
                    return
                kept = {k: v for k, v in reply.headers.items() if k.lower() not in _OURS}
                length = reply.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
                kind = reply.headers.get("Content-Type", "text/plain")
                self._say(reply.status, content, kind, {**kept, "Content-Length": length})

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _say(self, status: int, content: bytes, kind: str, headers: Mapping[str, str] = {}) -> None:
                with contextlib.suppress(OSError):  # the client may have lost its patience
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(content)), **headers, "Content-Type": kind}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content)

            do_HEAD = do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[BadNetwork]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def first(times: int, match: str, what: str | int | float) -> Rule:
    """The rule that spoils the first ``times`` requests whose "METHOD path" contains ``match``."""
    left = [times]

    def rule(method: str, path: str) -> str | int | float:
        if left[0] and match in f"{method} {path}":
            left[0] -= 1
            return what
        return "pass"

    return rule
