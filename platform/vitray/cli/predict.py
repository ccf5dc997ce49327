"""``vitray predict``: classify image files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.output import emit, grid, note, output_option
from vitray.errors import DataError

if TYPE_CHECKING:
    from vitray.inference.predictor import Prediction


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to list per image.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, cuda:1, ...")
@output_option
def predict(model: str, images: tuple[str, ...], top: int, device: str, output: str) -> None:
    """Classify IMAGES (JPEG or PNG files) with MODEL.

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`. An image that cannot
    be read is reported, the others are answered all the same, and the exit code is 2.
    """
    from vitray.tracking.registry import download

    folder = download(model)  # before importing torch, so that a misspelt name is answered at once
    from vitray.inference.predictor import Predictor

    found = Predictor.load(folder, device=device).predict(images, top_k=top)
    answers = list(zip(images, found, strict=True))
    emit([_as_dict(file, p) for file, p in answers], output, table=lambda: _table(answers, top))
    bad = [(file, p.error) for file, p in answers if p.error]
    for file, error in bad:
        note(f"{file}: {error}")
    if bad:
        what = f"{len(bad)} of {len(images)} images could not be classified (see above)"
        raise DataError(what, remedy="give JPEG or PNG files that are whole")


def _as_dict(file: str, prediction: Prediction) -> dict[str, Any]:
    return {
        "file": file,
        "label": prediction.label,
        "probability": None if prediction.error else prediction.probability,
        "top": [{"label": label, "probability": probability} for label, probability in prediction.top],
        "error": prediction.error,
    }


def _table(answers: list[tuple[str, Prediction]], top: int) -> str:
    rows = []
    for file, prediction in answers:
        if prediction.error:
            rows.append([file, "-", "-", f"({prediction.error})"])
        else:
            others = ", ".join(f"{label} {probability:.4f}" for label, probability in prediction.top[1:])
            rows.append([file, str(prediction.label), f"{prediction.probability:.4f}", others])
    headers = ["file", "class", "probability", "next"]
    plain = top == 1 and not any(p.error for _, p in answers)
    return grid([row[:3] for row in rows], headers[:3]) if plain else grid(rows, headers)
