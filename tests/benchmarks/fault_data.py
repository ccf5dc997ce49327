"""Data that is not what was written: what is read of it without a word, ours and what people would use instead.

    python tests/benchmarks/fault_data.py [--quick] [--output json]

- Two shards of one size swapped between training and test: our stream, ``ray.data.read_parquet``.
- A shard cut at a row group (ours) or at a member (``ray.data.read_webdataset``): images that are missing, unnoticed.
- 1 % of damaged images of eight kinds: prepared by us; ``torchvision.datasets.ImageFolder`` under a DataLoader. How
  many epochs of these come to their end.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

from harness import Row, arguments, publish, say, versions  # noqa: E402

CLASSES = ("cat", "dog")
_SEED = 13


def pictures(folder: Path, count: int) -> list[Path]:
    from spoilt_images import good_image

    files = []
    for number in range(count):
        kind = ("jpg", "png")[number % 2]
        files.append(folder / CLASSES[number // 2 % 2] / f"{number:05d}.{kind}")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_bytes(good_image(number, kind))
    return files


def unnoticed_by_us(dataset: Path, damage: str) -> int:
    """Images of the training split that are read although they are others, or that are missing, without an error."""
    from exchanged_shards import DAMAGES

    from vitray.data import ShardedImages
    from vitray.data.stream import StreamOptions
    from vitray.errors import DataError

    copy = dataset.with_name(f"copy-{damage}")
    shutil.copytree(dataset, copy)
    [spoil] = [one for one in DAMAGES if one.__name__ == damage]
    spoil(copy)
    read = 0
    try:
        images = ShardedImages.open(str(copy))
        for batch in images.batches("train", global_batch=32, stop_step=5, options=StreamOptions(cache="none")):
            read += len(batch.label)
    except DataError as error:
        say(f"ours: {error}")
        return 0
    return read


def unnoticed_by_ray(folder: Path) -> tuple[int, int]:
    """Of two swapped Parquet files, and of an archive that is cut at a member."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    for split, number in (("train", 0), ("test", 1)):
        (folder / split).mkdir()
        pq.write_table(pa.table({"image": [bytes([number] * 64)] * 100}), folder / split / "0.parquet")
    one, other = folder / "train" / "0.parquet", folder / "test" / "0.parquet"
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)

    with tarfile.open(folder / "whole.tar", "w") as archive:
        for number in range(100):
            info = tarfile.TarInfo(f"{number:03d}.bin")
            info.size = 512
            archive.addfile(info, io.BytesIO(bytes(512)))
    (folder / "cut").mkdir()
    (folder / "cut" / "0.tar").write_bytes((folder / "whole.tar").read_bytes()[: 50 * 1024])

    ray.init(address="local", log_to_driver=False, include_dashboard=False)
    try:
        rows = ray.data.read_parquet(str(folder / "train")).take_all()
        swapped = sum(row["image"][0] == 1 for row in rows)
        try:
            found = ray.data.read_webdataset(str(folder / "cut"), decoder=False).count()
        except Exception as error:
            say(f"read_webdataset: {error}")
            found = 100
        return swapped, 100 - found
    finally:
        ray.shutdown()


def epochs_of_ours(folder: Path, out: Path) -> int:
    from vitray.data import ShardedImages
    from vitray.data.prepare import prepare
    from vitray.data.stream import StreamOptions

    manifest = prepare(str(folder), out)
    say(f"ours: {sum(split.rows for split in manifest.splits.values())} images, the others are in quarantine")
    images, done = ShardedImages.open(str(out)), 0
    steps = images.order("train", global_batch=64).steps_per_epoch
    for batch in images.batches("train", global_batch=64, stop_step=steps, options=StreamOptions(cache="none")):
        done += int((batch.weight > 0).sum())
    return int(done >= images.num_samples("train"))


def epochs_of_torchvision(folder: Path) -> int:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    try:
        for _ in DataLoader(ImageFolder(str(folder), ToTensor()), batch_size=64, shuffle=True):
            pass
    except Exception as error:
        say(f"ImageFolder: {type(error).__name__}: {str(error).splitlines()[-1]}")
        return 0
    return 1


def main() -> None:
    args = arguments(str(__doc__)).parse_args()
    from exchanged_shards import shards_alike
    from spoilt_images import KINDS

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = shards_alike(folder / "alike")
        swapped = unnoticed_by_us(dataset, "swapped_between_splits")
        cut = unnoticed_by_us(dataset, "cut_at_a_row_group")
        (folder / "ray").mkdir()
        swapped_ray, cut_ray = unnoticed_by_ray(folder / "ray")
        files = pictures(folder / "pictures", 800 if args.quick else 4_000)
        chance = random.Random(_SEED)
        for number, file in enumerate(chance.sample(files, len(files) // 100)):
            KINDS[number % len(KINDS)](file, chance)
        ours, theirs = (
            epochs_of_ours(folder / "pictures", folder / "prepared"),
            epochs_of_torchvision(folder / "pictures"),
        )
    rows = [
        Row("swapped between training and test: of 100 images read unnoticed", "", swapped, swapped_ray,
            "read_parquet", _ratio(swapped, swapped_ray)),
        Row("cut shard: of 100 images missing unnoticed", "", cut, cut_ray, "read_webdataset", _ratio(cut, cut_ray)),
        Row("1 % damaged images: epochs that come to their end", "", ours, theirs, "ImageFolder", _ratio(theirs, ours)),
    ]  # fmt: skip
    publish("fault_data", rows, args.output, versions("ray", "torchvision", "pyarrow"))


def _ratio(ours: float, theirs: float) -> float:
    return theirs / ours if ours else (float("inf") if theirs else 1.0)


if __name__ == "__main__":
    main()
