"""The stock way to serve with Ray Serve, as its documentation has it: its proxy, and ``@serve.batch`` in a replica.

Run by serving.py as ``serving_stock.py PACKAGE PORT CPUS``; ends when its standard input does.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

MAX_BATCH = 32


@serve.deployment(max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Stock:
    def __init__(self, package: str) -> None:
        from vitray.inference import Predictor

        self._predictor = Predictor.load(package)

    @serve.batch(max_batch_size=MAX_BATCH)  # its default: wait for 10 ms
    async def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        found = self._predictor.predict(images)
        return [{"label": p.label, "probability": p.probability, "top": p.top} for p in found]

    async def __call__(self, request: Request) -> Any:
        return await self.answer(await request.body())


def main() -> None:
    package, port, cpus = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    # Access logs off: ours has none either, and they cost.
    serve.start(http_options={"port": port}, logging_config={"log_level": "ERROR", "enable_access_log": False})
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    serve.run(Stock.options(logging_config=quiet).bind(package), route_prefix="/predict")
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
