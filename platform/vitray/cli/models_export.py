"""``vitray models export``: a model as one file for others to run."""

from __future__ import annotations

import click

from vitray.cli.output import emit, grid, output_option


@click.command("export")
@click.argument("model")
@click.argument("dest", type=click.Path())
@click.option(
    "--format",
    "kind",
    type=click.Choice(["safetensors", "pt2", "onnx"]),
    help="What to write; by default what DEST's name ends in.",
)
@click.option(
    "--with-preprocessing",
    "preprocessing",
    is_flag=True,
    help="Take uint8 pixels (batch, height, width, channels) and give probabilities. For pt2 and onnx.",
)
@output_option
def export_(model: str, dest: str, kind: str | None, preprocessing: bool, output: str) -> None:
    """Write MODEL as the new file DEST, which others read without vitray.

    MODEL is models:/NAME@alias, models:/NAME/version, or a folder made by `vitray models pull`.

    safetensors holds the weights, under timm's names. pt2 (torch.export) and onnx (pip install 'vitray[export]') hold
    the computation for any batch size: normalised float32 images (batch, channels, height, width) to logits. Each
    carries the classes, mean and std. The file is read back and compared with MODEL before it is left.
    """
    from vitray.tracking.registry import download

    folder = download(model)  # before importing torch, so that a misspelt name is answered at once
    from vitray.models.export import export

    done = export(folder, dest, kind, preprocessing=preprocessing)
    facts = {
        "model": model,
        "file": str(done.path),
        "format": done.kind,
        "bytes": done.bytes,
        "largest_difference": done.difference,
    }
    row = [done.path, done.kind, f"{done.bytes:,}", f"{done.difference:.1e}" if done.difference else "0"]
    emit(facts, output, table=lambda: grid([row], ["file", "format", "bytes", "largest difference from MODEL"]))
