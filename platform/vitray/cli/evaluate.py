"""``vitray evaluate``: a model's accuracy on a dataset."""

from __future__ import annotations

from typing import Any

import click

from vitray.cli.output import emit, grid, output_option


@click.command()
@click.argument("model")
@click.argument("data")
@click.option("--split", default="test", show_default=True)
@output_option
def evaluate(model: str, data: str, split: str, output: str) -> None:
    """Measure MODEL (models:/name@alias, models:/name/3 or a checkpoint folder) on a split of the dataset DATA."""
    from vitray.data.images import ShardedImages
    from vitray.home import Home
    from vitray.tracking.registry import download

    images = ShardedImages.open(data)
    package = download(model, tracking_uri=Home.find().tracking_uri)
    from vitray.inference.score import score_package

    score = score_package(package, images, split)
    low, high = score.interval
    facts: dict[str, Any] = {
        "model": model,
        "data": data,
        "split": split,
        "samples": score.samples,
        "accuracy": score.accuracy,
        "interval": [low, high],
        "per_class": score.per_class,
        "confusion": score.confusion.tolist(),
        "images_per_s": score.images_per_s,
    }
    head = f"accuracy {score.accuracy:.4f} (95 % interval {low:.3f} to {high:.3f}), {score.samples} images of {split}"
    rows = [(name, f"{share:.4f}") for name, share in score.per_class.items()]
    emit(facts, output, table=lambda: f"{head}\n\n" + grid(rows, ("class", "accuracy")))
