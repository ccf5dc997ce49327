"""One call to a Ray head node, over gRPC and without importing Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped]


def host_and_port(named: str) -> tuple[str, int] | None:
    """The parts of ``HOST:PORT`` or ``[IPV6]:PORT``; None where it is neither."""
    host, _, port = named.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    return (host, int(port)) if host and port.isdecimal() and 0 < int(port) < 65536 else None


def in_brackets(host: str) -> str:
    """A host as it stands before ``:PORT``."""
    return f"[{host}]" if ":" in host else host


def call(
    host: str, port: int, method: str, request: bytes, *, token: str | None, timeout_s: float
) -> bytes | grpc.StatusCode:
    """The reply to a request, both as they are on the wire, or gRPC's status code where there is none."""
    import grpc

    channel = grpc.insecure_channel(f"{in_brackets(host)}:{port}", options=[("grpc.enable_http_proxy", 0)])
    ask = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
    try:
        reply: bytes = ask(
            request, timeout=timeout_s, metadata=[("authorization", f"Bearer {token}")] if token else None
        )
    except grpc.RpcError as error:
        return error.code()
    finally:
        channel.close()
    return reply
