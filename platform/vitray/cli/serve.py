"""``vitray serve``: a model behind HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable
from importlib.util import find_spec
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from vitray.cli.options import address_option
from vitray.cli.output import note
from vitray.errors import ResourceError

if TYPE_CHECKING:
    from vitray.inference.serving.live import Loaded

_EXTRA = ("uvicorn", "starlette", "prometheus_client", "python_multipart", "grpc_reflection", "mmh3", "watchfiles")


@click.command()
@click.argument("model")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 answers the whole network, unprotected.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--reload-s", default=5.0, show_default=True, type=click.FloatRange(0), help="Follow the alias; 0: never."
)
@click.option("--replicas", default=1, show_default=True, type=click.IntRange(1), help="Processes that hold the model.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]), help="Of each replica.")
@click.option("--threads", type=click.IntRange(1), help="CPUs of each replica (default: all that there are, shared).")
@click.option("--max-batch", default=32, show_default=True, type=click.IntRange(1, 1024), help="1: no batching.")
@click.option("--max-mb", default=16.0, show_default=True, type=click.FloatRange(0.001), help="Largest request body.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Another name it may be called by; repeatable.")
@address_option
def serve(
    model: str,
    host: str,
    port: int,
    reload_s: float,
    replicas: int,
    device: str,
    threads: int | None,
    max_batch: int,
    max_mb: float,
    allow_host: tuple[str, ...],
    address: str | None,
) -> None:
    """Answer HTTP with MODEL, on Ray Serve. Ctrl-C ends it.

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`. When the alias moves
    to another version, that one is loaded beside the one that answers, and takes over without a pause.

    \b
    POST /predict  an image, a form with files, or JSON {"images": ["BASE64"], "top_k": 3}
    POST /explain  one image: what the model attended to
    GET  /         a page to drop images on
    GET  /model  /metrics  /healthz  /readyz
    """
    _check_extra()
    from vitray.inference.serving import versions

    version = versions.find(model)
    if version.number is None:
        versions.read(version)  # that a folder holds no model is better told before Ray starts
    from vitray.inference.serving import server

    with server.bind(host, port) as listening, _Interrupts() as interrupts:
        port = listening.getsockname()[1]
        note(f"starting Ray and loading {version.label} ...")
        from vitray.cluster.local import connect
        from vitray.cluster.serving import Replicas, deployed, threads_for
        from vitray.inference.serving.serve import Batching, Options
        from vitray.inference.serving.serve import serve as answer

        calls = 1 if max_batch > 1 else 8  # without batches, calls to a replica overlap instead
        options = Options(host, allow_host, reload_s, Batching(max_batch, calls * replicas), int(max_mb * 1e6))
        with connect(address) as cluster:
            interrupts.take()  # again: Ray has handlers of its own
            wanted = Replicas(replicas, device, threads or threads_for(cluster, replicas), max_batch)
            with deployed(cluster, wanted, port) as backend:
                asyncio.run(answer(model, version, backend, listening, options, ready=_welcome(host, port), say=note))
    note("stopped")


def _welcome(host: str, port: int) -> Callable[[Loaded], None]:
    def ready(loaded: Loaded) -> None:
        url = f"http://{_shown(host)}:{port}"
        version = loaded.version
        alias = f" ({version.alias})" if version.alias else ""
        accuracy = "" if version.test_accuracy is None else f", test accuracy {version.test_accuracy:.4f}"
        height, width = loaded.facts.size
        click.echo(url)
        note(f"{version.label}{alias} answers: {len(loaded.facts.classes)} classes, {height}x{width} pixels{accuracy}")
        if not _is_loopback(host):
            note(f"warning: whoever reaches {host} can use it: there is no authentication")
        note(f"  curl -H 'Content-Type: image/png' --data-binary @image.png {url}/predict")
        note(f"  curl -F file=@image.png -F top_k=3 {url}/predict")
        note(f"a page to drop images on: {url}/  Ctrl-C ends it")

    return ready


def _shown(host: str) -> str:
    """For a URL: where everybody may ask, this machine may too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        what = f"serving needs packages that are not installed: {', '.join(missing)}"
        raise ResourceError(what, where="vitray serve", remedy="pip install 'vitray[serve]'")


class _Interrupts:
    """Whoever asks the process to end means Ctrl-C, and what breaks on the way out is no error.

    An import or Ray that is interrupted may raise anything, with KeyboardInterrupt somewhere inside it.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def take(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.signal(number, self._interrupt)
            self._before.setdefault(number, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        raise KeyboardInterrupt

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return self._asked or isinstance(error, KeyboardInterrupt | SystemExit)  # the latter is Ray's way with SIGTERM
