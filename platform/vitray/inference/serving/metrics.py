"""What ``GET /metrics`` tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = here = CollectorRegistry()
        self._requests = Counter("vitray_requests", "HTTP requests answered.", ["route", "code"], registry=here)
        self._seconds = Histogram(
            "vitray_request_seconds",
            "From a request's head to its answer's end.",
            ["route"],
            buckets=_SECONDS,
            registry=here,
        )
        self._images = Counter("vitray_images", "Images answered, by outcome.", ["outcome"], registry=here)
        self._batches = Histogram(
            "vitray_batch_images", "Images that shared a forward pass.", buckets=_SIZES, registry=here
        )
        self.waiting = Gauge("vitray_waiting_images", "Images that wait for a batch.", registry=here)
        self._model = Gauge(
            "vitray_model_info", "The version that answers.", ["name", "version", "alias"], registry=here
        )
        self._reloads = Counter("vitray_reloads", "Changes to another version, by outcome.", ["outcome"], registry=here)
        self.registry_up = Gauge(
            "vitray_registry_up", "Whether the last look into the registry went well.", registry=here
        )
        for outcome in ("answered", "error"):
            self._images.labels(outcome)
        for outcome in ("done", "failed"):
            self._reloads.labels(outcome)

    def request(self, route: str, code: int, seconds: float) -> None:
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def images(self, answered: int, errors: int) -> None:
        self._images.labels("answered").inc(answered)
        self._images.labels("error").inc(errors)

    def batch(self, size: int) -> None:
        self._batches.observe(size)

    def model(self, name: str, version: str, alias: str) -> None:
        """From now on this version answers."""
        self._model.clear()
        self._model.labels(name, version, alias).set(1)

    def reloaded(self, *, done: bool) -> None:
        self._reloads.labels("done" if done else "failed").inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
