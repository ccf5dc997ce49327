"""``vitray data``: prepare, verify and look at datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vitray.cli.options import address_option
from vitray.cli.output import emit, grid, note, output_option
from vitray.errors import DataError, VitrayError
from vitray.masking import public

if TYPE_CHECKING:
    from vitray.data.shards import ShardStore

_SHEET_CLASSES = 20


@click.group()
def data() -> None:
    """Prepare, verify and look at datasets."""


def _three(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, float, float] | None:
    if value is None:
        return None
    try:
        train, val, test = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not three numbers; write for example 0.7,0.1,0.2") from None
    return train, val, test


@data.command()
@click.argument("source")
@click.argument("dest")
@click.option("--seed", default=0, show_default=True, help="Decides the splits and the order of the rows.")
@click.option("--size", type=int, metavar="PIXELS", help="Make the shorter side of larger images this long.")
@click.option(
    "--splits",
    type=click.Choice(["fractions", "folders"]),
    default="fractions",
    show_default=True,
    help="Divide the images by shares, or as SOURCE divides them.",
)
@click.option(
    "--fractions",
    metavar="SHARES",
    callback=_three,
    help="Shares of train, val and test.  [default: 0.7,0.1,0.2; of a split that folders lack: 0]",
)
@click.option("--path-column", metavar="NAME", help="Of a CSV or Parquet listing: where the image lies.")
@click.option("--label-column", metavar="NAME", help="Of a listing or Parquet files: the class.")
@click.option("--image-column", metavar="NAME", help="Of Parquet files: the encoded images.")
@click.option("--rows-per-group", default=64, show_default=True, help="Images of a Parquet row group.")
@click.option("--shard-mb", default=64.0, show_default=True, help="Images per shard file, in MB.")
@click.option("--max-bad-fraction", default=0.02, show_default=True, help="Stop above this share of bad images.")
@click.option("--max-pixels", default=64_000_000, show_default=True, help="Refuse larger images unread.")
@click.option("--overwrite", is_flag=True, help="Replace the dataset at DEST.")
@click.option(
    "--executor",
    type=click.Choice(["auto", "local", "ray"]),
    default="auto",
    show_default=True,
    help="Threads here, or a Ray Data job; auto is Ray on a cluster, and for a large source on many cores.",
)
@address_option
@output_option
def prepare(source: str, dest: str, output: str, executor: str, address: str | None, **options: Any) -> None:
    """Turn the images of SOURCE into the dataset DEST.

    \b
    SOURCE is one of
      DIR                          a sub-folder of images a class
      LIST.csv, LIST.parquet       image paths and labels
      IMAGES.parquet               encoded images and labels, as Hugging Face writes them
      SHARDS-{0000..0099}.tar      WebDataset: NAME.jpg beside NAME.cls or NAME.json
      torchvision:CIFAR10?root=DIR a torchvision dataset on the disk
      builtin:digits, builtin:synthetic?classes=10&count=1000&size=64

    SOURCE and DEST may be local paths or URIs (s3://, gs://, file://).
    """
    from vitray.cli.data_prepare import chosen, progress_bars
    from vitray.data.inspect import summary
    from vitray.data.prepare import prepare as run
    from vitray.data.shards import ShardStore

    with progress_bars() as progress:
        manifest = run(source, dest, progress=progress, executor=chosen(executor, address), **options)
    store = ShardStore.open(dest)
    if manifest.refused:
        note(f"left out {manifest.refused} images; quarantine.parquet says which and why")
    emit(summary(store), output, table=lambda: _table(store))


@data.command()
@click.argument("dest")
@output_option
def verify(dest: str, output: str) -> None:
    """Re-hash every shard of DEST; exit 1 when one is not as it was written, and name it."""
    from vitray.data.shards import ShardStore
    from vitray.data.verify import verify as run

    store = ShardStore.open(dest, check=False)
    findings = run(store)
    rows = [[finding.file, finding.problem] for finding in findings]
    shards = sum(len(split.shards) for split in store.manifest.splits.values())
    emit(
        {"path": store.shown, "shards": shards, "findings": [{"file": f, "problem": p} for f, p in rows]},
        output,
        table=lambda: (
            grid(rows, ["file", "problem"]) if rows else f"{public(dest)}: all {shards} shards are as written"
        ),
    )
    if findings:
        raise VitrayError(
            f"{len(findings)} files are not as the manifest says",
            where=store.shown,
            remedy="copy the dataset again from where it was made, or prepare it again",
        )


@data.command()
@click.argument("dest")
@click.option("--to", "sheet", default=None, help="The contact sheet PNG.  [default: NAME-samples.png here]")
@output_option
def inspect(dest: str, sheet: str | None, output: str) -> None:
    """Print what DEST holds, and draw samples of its classes."""
    from vitray.data.inspect import samples, summary
    from vitray.data.shards import ShardStore
    from vitray.plots.contact_sheet import contact_sheet

    store = ShardStore.open(dest)
    classes = store.manifest.classes
    path = Path(sheet or f"{Path(store.shown.partition('?')[0]).name}-samples.png")
    figure = contact_sheet(samples(store, range(min(len(classes), _SHEET_CLASSES)), per_class=10), classes)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy="choose another file with --to"
        ) from None
    if len(classes) > _SHEET_CLASSES:
        note(f"the contact sheet shows the first {_SHEET_CLASSES} of {len(classes)} classes")
    emit(
        summary(store) | {"contact_sheet": str(path)},
        output,
        table=lambda: f"{_table(store)}\ncontact sheet   {path}",
    )


def _table(store: ShardStore) -> str:
    manifest = store.manifest
    splits = manifest.splits
    totals = [
        [name, f"{s.rows:,}", s.row_groups, len(s.shards), f"{sum(shard.bytes for shard in s.shards) / 1e6:.2f}"]
        for name, s in splits.items()
    ]
    shown = list(enumerate(manifest.classes))[:_SHEET_CLASSES]
    counts = [[name, *(f"{s.class_counts[label]:,}" for s in splits.values())] for label, name in shown]
    if more := len(manifest.classes) - len(shown):
        counts.append([f"... {more} more", *("" for _ in splits)])
    size = (
        f"{manifest.image_size[1]} x {manifest.image_size[0]} pixels" if manifest.image_size else "of different sizes"
    )
    facts = [
        ("dataset", store.shown),
        ("source", manifest.source),
        ("fingerprint", manifest.fingerprint),
        ("images", f"{size}, {'grayscale' if manifest.channels == 1 else 'RGB'}"),
        ("mean, std", "  ".join(f"{m:.4f}, {s:.4f}" for m, s in zip(manifest.mean, manifest.std, strict=True))),
        ("converted", ", ".join(f"{count:,} {kind}" for kind, count in manifest.converted.items()) or "none"),
        ("duplicates", f"{manifest.duplicates} (each in the split of its twin)"),
        ("left out", f"{manifest.refused}" + (" (see quarantine.parquet)" if manifest.refused else "")),
    ]
    lines = [f"{key:<16}{value}" for key, value in facts]
    return "\n".join(
        [
            *lines,
            "",
            grid(totals, ["split", "images", "row groups", "shards", "MB"]),
            "",
            grid(counts, ["class", *splits]),
        ]
    )
