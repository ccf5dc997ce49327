"""Batch scoring of JPEG files with a ViT-Ti/16 at 224: `vitray predict --to`, by Ray workers and by threads, beside the
bare model on the same cores, a torch DataLoader before the same model, and Ray Data as in its guide.

    python tests/benchmarks/batch_scoring.py [--quick] [--rounds 3] [--images 1024] [--output json]

Every arm is a process of its own and classifies the same files, decoding included; they take turns. Rates count from
when the model is ready (of several: the first) to the last answer; what starting costs is a row of its own, as are CPU
time and the peak memory (PSS) of all the arm's processes, at 1x and at 8x the images. `bare` is the strongest loop
that we know: decode in as many threads as cores, then a forward pass on all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from harness import Row, arguments, less_is_better, more_is_better, publish, say, versions
from ingest_measure import answer, fresh, tree, tree_cpu_seconds
from photos import photos_of, repeat_photos, write_photos

BATCH, SIZE, CLASSES = 64, 224, 10
_SAMPLE_S = 1.0


@dataclass(frozen=True)
class Measured:
    """images/s once ready; seconds until ready; CPU-seconds in all; peak PSS in MiB; label of every file, in order."""

    rate: float
    start: float
    cpu: float
    peak: float
    labels: list[str]


def make_model(folder: Path) -> None:
    import torch

    from vitray.model_config import ModelConfig
    from vitray.models import VisionTransformer
    from vitray.models.package import PackageInfo, save_package

    torch.manual_seed(0)
    config = ModelConfig.preset("vit_tiny", patch_size=16, image_size=SIZE, in_chans=3, num_classes=CLASSES)
    info = PackageInfo(
        model=config,
        classes=tuple(f"class{i}" for i in range(CLASSES)),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        dataset_fingerprint="f" * 64,
    )
    save_package(folder, VisionTransformer(config).state_dict(), info)


def vitray(work: Path, photos: Path, executor: str) -> tuple[float, float, list[str]]:
    """What the command does: into a Parquet file, in order, resumable."""
    import pyarrow.parquet as pq

    from vitray.cluster.score_file import Job, score_file
    from vitray.inference.inputs import open_inputs
    from vitray.models.package import read_info

    info, _ = read_info(work / "model")
    inputs = open_inputs([str(photos)], classes=info.classes)
    to = work / f"{os.getpid()}.parquet"
    scored = score_file(Job("model", work / "model", info, inputs, 3, executor, device="cpu"), str(to))  # type: ignore[arg-type]
    assert scored.images_per_s is not None
    return scored.images_per_s, scored.start_s, pq.read_table(to)["label"].to_pylist()


def ray_workers(work: Path, photos: Path) -> tuple[float, float, list[str]]:
    return vitray(work, photos, "ray")


def threads(work: Path, photos: Path) -> tuple[float, float, list[str]]:
    return vitray(work, photos, "local")


def bare(work: Path, photos: Path) -> tuple[float, float, list[str]]:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    import torch

    from vitray.data.decode import decode, fit
    from vitray.models.package import load_package
    from vitray.models.preprocess import normalise

    begun = time.perf_counter()
    model, info = load_package(work / "model")
    torch.set_num_threads(cores())
    files, labels = photos_of(photos), list[str]()
    ready = time.perf_counter()
    with torch.inference_mode(), ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(files), BATCH):
            some = files[start : start + BATCH]
            pixels = np.stack(list(pool.map(lambda file: fit(decode(file.read_bytes(), 3), (SIZE, SIZE)), some)))
            best = model(normalise(torch.from_numpy(pixels), info.mean, info.std)).softmax(1).argmax(1)
            labels += [info.classes[i] for i in best.tolist()]
    return len(files) / (time.perf_counter() - ready), ready - begun, labels


class _Files:
    """A map-style dataset with our own decode: the peer differs in its loader alone."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        import torch

        from vitray.data.decode import decode, fit

        return torch.from_numpy(fit(decode(self._files[index].read_bytes(), 3), (SIZE, SIZE)))


def dataloader(work: Path, photos: Path) -> tuple[float, float, list[str]]:
    import torch
    from torch.utils.data import DataLoader

    from vitray.models.package import load_package
    from vitray.models.preprocess import normalise

    begun = time.perf_counter()
    model, info = load_package(work / "model")
    files, labels = photos_of(photos), list[str]()
    data: Any = _Files(files)
    torch.set_num_threads(cores())
    ready = time.perf_counter()
    with torch.inference_mode():
        for pixels in DataLoader(data, batch_size=BATCH, num_workers=cores()):
            best = model(normalise(pixels, info.mean, info.std)).softmax(1).argmax(1)
            labels += [info.classes[i] for i in best.tolist()]
    return len(files) / (time.perf_counter() - ready), ready - begun, labels


class _GuideModel:
    """The class that Ray Data's guide to batch inference tells to write."""

    def __init__(self, package: str) -> None:
        from vitray.models.package import load_package

        self.model, self.info = load_package(package)
        self.ready = time.time()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np
        import torch

        from vitray.models.preprocess import normalise

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(list(batch["image"])))
            best = self.model(normalise(pixels, self.info.mean, self.info.std)).softmax(1).argmax(1)
        labels = np.array([self.info.classes[i] for i in best.tolist()])
        return {"path": batch["path"], "label": labels, "ready": np.full(len(labels), self.ready)}


def ray_guide(work: Path, photos: Path) -> tuple[float, float, list[str]]:
    import ray
    import ray.data

    begun = time.time()
    ray.init(address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    images = ray.data.read_images(str(photos), size=(SIZE, SIZE), mode="RGB", include_paths=True)
    # As the guide has it, a model a core; the first of two cores must stay free, or nobody would decode.
    answers = images.map_batches(
        _GuideModel,
        fn_constructor_args=(str(work / "model"),),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=max(1, cores() - 1)),
        num_cpus=1,
    )
    to = work / f"{os.getpid()}-guide"
    answers.write_parquet(str(to))
    done = time.time()
    import pyarrow.parquet as pq

    table = pq.read_table(to).to_pandas().sort_values("path")
    ready = float(table.ready.min())
    return len(table) / (done - ready), ready - begun, table.label.tolist()


ARMS: dict[str, Callable[[Path, Path], tuple[float, float, list[str]]]] = {
    "vitray": ray_workers,
    "threads": threads,
    "bare": bare,
    "dataloader": dataloader,
    "ray_guide": ray_guide,
}


def cores() -> int:
    return len(os.sched_getaffinity(0))


class _Peak:
    """The largest sum of PSS (MiB) of this process and all below it, looked at every second."""

    def __init__(self) -> None:
        self.mib, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            total = 0
            for process in tree():
                with contextlib.suppress(psutil.Error, OSError):
                    total += process.memory_full_info().pss
            self.mib = max(self.mib, total / 2**20)
            tree_cpu_seconds()  # sees processes before they end

    def close(self) -> float:
        self._stop.set()
        self._thread.join()
        return self.mib


def measure(arm: str, work: Path, photos: Path) -> Measured:
    peak = _Peak()
    before = tree_cpu_seconds()
    rate, start, labels = ARMS[arm](work, photos)
    return Measured(rate, start, tree_cpu_seconds() - before, peak.close(), labels)


def run(arm: str, work: Path, photos: Path) -> Measured:
    found = Measured(**fresh(Path(__file__), "measure", arm, str(work), str(photos), timeout=3600))
    facts = f"ready after {found.start:.1f} s, {found.cpu:.0f} CPU-s, {found.peak:.0f} MiB"
    say(f"  {arm}: {found.rate:.1f} images/s, {facts}")
    return found


def compare(work: Path, photos: Path, rounds: int) -> list[Row]:
    images = len(photos_of(photos))
    taken: dict[str, list[Measured]] = {name: [] for name in ARMS}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for name in ARMS:
            taken[name].append(run(name, work, photos))
    first = taken["bare"][0].labels
    for name in ("vitray", "threads", "dataloader"):  # the guide resizes with PIL, so its pixels are others
        same = statistics.mean(a == b for a, b in zip(taken[name][0].labels, first, strict=True))
        assert same > 0.99, f"{name} answers otherwise than the bare model: {same:.2%} the same"
    assert len(taken["ray_guide"][0].labels) == images

    def of(name: str, field: str, scale: float = 1.0) -> list[float]:
        return [scale * getattr(found, field) for found in taken[name]]

    rate, cpu = "images/s", 1000 / images
    return [
        more_is_better("Ray workers", rate, of("vitray", "rate"), of("bare", "rate"), "bare model", 0.9),
        more_is_better("Ray workers", rate, of("vitray", "rate"), of("dataloader", "rate"), "DataLoader"),
        more_is_better("Ray workers", rate, of("vitray", "rate"), of("ray_guide", "rate"), "Ray Data's guide"),
        more_is_better("threads", rate, of("threads", "rate"), of("bare", "rate"), "bare model", 0.9),
        less_is_better("start until ready", "s", of("vitray", "start"), of("ray_guide", "start"), "Ray Data's guide"),
        less_is_better("threads: start until ready", "s", of("threads", "start"), of("bare", "start"), "bare model"),
        less_is_better(
            "CPU time, start included",
            "CPU-ms an image",
            of("vitray", "cpu", cpu),
            of("bare", "cpu", cpu),
            "bare model",
        ),
    ]


def memory(work: Path, photos: Path, often: Path, times: int) -> list[Row]:
    rows = []
    for name, title in (("vitray", "Ray workers"), ("threads", "threads")):
        say(f"memory of {title}, 1x and {times}x")
        once, more = (run(name, work, folder).peak for folder in (photos, often))
        rows.append(less_is_better(f"{title}: peak memory at {times}x", "MiB", [more], [once], "1x", 0.9))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        arm, work, photos = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
        with contextlib.redirect_stdout(sys.stderr):
            result = measure(arm, work, photos)
        answer(asdict(result))
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1024)
    options = parser.parse_args()
    images, rounds, times = (128, 1, 2) if options.quick else (options.images, options.rounds, 8)
    work = Path(tempfile.mkdtemp(prefix="vitray-scoring-"))
    try:
        make_model(work / "model")
        photos = write_photos(work / "photos", images)
        often = repeat_photos(photos, work / "often", times)
        rows = compare(work, photos, rounds) + memory(work, photos, often, times)
        publish("batch_scoring", rows, options.output, versions("ray", "torch", "opencv-python-headless", "pyarrow"))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
