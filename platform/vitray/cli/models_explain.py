"""``vitray models explain``: pictures of what a model has learned and what it attends to."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from vitray.cli.output import emit, grid, note, output_option
from vitray.errors import DataError


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--to", "folder", required=True, metavar="DIR", type=click.Path(), help="Where the pictures go.")
@click.option("--device", default="cpu", show_default=True, help="Where the model runs: cpu, cuda, cuda:1, ...")
@output_option
def explain(model: str, images: tuple[str, ...], folder: str, device: str, output: str) -> None:
    """Draw how MODEL sees: its positions and filters, and what it attends to in IMAGES (JPEG or PNG files).

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`. Pictures of an earlier
    call are replaced. An image that cannot be read is reported, the others are drawn all the same, and the exit code
    is 2.

    \b
    positional_encoding.png  the encoding's own numbers
    patch_filters.png        first principal components of the patch embedding
    NAME-attention.png       an image's attention by block and head
    NAME-rollout.png         its prediction, and attention rolled out over all blocks
    attention_distance.png   how far each head looks, by depth, over all images
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise DataError("is a file, not a folder", where=str(target), remedy="name a folder with --to")
    from vitray.tracking.registry import download

    package = download(model)  # before importing torch, so that a misspelt name is answered at once
    from vitray.inference.explain import look
    from vitray.inference.predictor import Predictor
    from vitray.plots.explanation import Explanation

    warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font lacks become boxes
    predictor = Predictor.load(package, device=device)
    drawn = Explanation(predictor.model, target)
    errors: list[tuple[str, DataError]] = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        drawn.model_pictures()
        for image in images:
            try:
                seen = look(predictor, image)
            except DataError as error:
                errors.append((image, error))
            else:
                drawn.add(Path(image).stem, seen.pixels, seen.label, seen.probability, seen.attention, image)
        drawn.distance_picture()
    except OSError as error:
        raise DataError(
            f"cannot be written to: {error.strerror or error}", where=folder, remedy="choose another folder with --to"
        ) from error
    pictures = [{"file": str(p.path), "shows": p.shows, "image": p.image} for p in drawn.pictures]
    failed = [{"image": image, "error": found.what} for image, found in errors]
    emit(
        {"pictures": pictures, "errors": failed},
        output,
        table=lambda: grid([[p["file"], p["shows"]] for p in pictures], ["file", "shows"]),
    )
    for image, found in errors:
        note(f"{image}: {found.what}")
    if errors:
        what = f"{len(errors)} of {len(images)} images could not be explained (see above)"
        raise DataError(what, remedy=errors[0][1].remedy or "give JPEG or PNG files that are whole")
