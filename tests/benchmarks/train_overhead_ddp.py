"""The peer of train_overhead.py: the script that torchrun's documentation leads to. DDP over gloo, and nothing else.

The same model code, optimizer, loss and clipping as ours, so that what differs is who brings the batches, and what
runs around the step. Data either lie in memory, or come from torchvision's ImageFolder through a DataLoader.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

Batches = Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
"""Given an epoch, yields this rank's uint8 images (B, H, W, C) and labels."""


def in_memory(work: dict[str, Any], rank: int, world_size: int) -> Batches:
    """Every image as uint8 in memory, in a new order each epoch."""
    held = torch.load(Path(work["folder"]) / "memory.pt", weights_only=True)
    images, labels, share = held["images"], held["labels"], work["batch"] // world_size

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for start in range(0, len(labels) - work["batch"] + 1, work["batch"]):
            mine = order[start + rank * share : start + (rank + 1) * share]
            yield images[mine], labels[mine]

    return batches


def from_files(work: dict[str, Any], rank: int, world_size: int) -> Batches:
    """ImageFolder, DistributedSampler and DataLoader; decoded by PIL, or by torchvision into uint8 tensors."""
    import warnings

    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler
    from torchvision import datasets
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    warnings.filterwarnings("ignore", message=".*decoding and encoding capabilities.*")
    crop = [v2.RandomResizedCrop(work["size"]), v2.RandomHorizontalFlip()]
    photos = str(Path(work["folder"]) / "photos")
    if work["decoder"] == "PIL":
        data = datasets.ImageFolder(photos, v2.Compose([*crop, v2.PILToTensor()]))
    else:
        data = datasets.ImageFolder(
            photos, v2.Compose(crop), loader=lambda path: decode_image(path, mode=ImageReadMode.RGB)
        )
    sampler: Any = DistributedSampler(data, num_replicas=world_size, rank=rank, drop_last=True)
    loader: Any = DataLoader(
        data,
        batch_size=work["batch"] // world_size,
        sampler=sampler,
        num_workers=max(1, (os.cpu_count() or 1) // world_size),
        persistent_workers=True,
        drop_last=True,
    )

    def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        sampler.set_epoch(epoch)
        for images, labels in loader:
            yield images.permute(0, 2, 3, 1), labels

    return batches


def main() -> None:
    from vitray.experiment import ModelConfig, OptimConfig
    from vitray.models import VisionTransformer
    from vitray.models.preprocess import normalise
    from vitray.train.optim import make_optimizer

    work = json.loads(os.environ["WORK"])
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
    torch.manual_seed(0)
    model = VisionTransformer(ModelConfig(**work["model"]))
    optimizer = make_optimizer(model, OptimConfig())
    wrapped = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    batches = (in_memory if work["decoder"] is None else from_files)(work, rank, world_size)
    channels = work["model"]["in_chans"]
    mean, std = torch.full((channels,), 0.5), torch.full((channels,), 0.25)
    epoch, counted, end = 0, 0, torch.zeros(1)
    start = time.perf_counter()
    while not end:
        rows = 0
        for images, labels in batches(epoch):
            loss = F.cross_entropy(wrapped(normalise(images, mean, std)), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            rows += len(labels) * world_size
        now = time.perf_counter()
        if epoch == 0:
            start = now  # the first epoch warms up
        else:
            counted += rows
        if rank == 0:
            print(json.dumps({"epoch": epoch, "rows": counted, "seconds": now - start}), flush=True)
        end.fill_(float(epoch > 0 and now - start > work["seconds"]))
        dist.broadcast(end, 0)
        epoch += 1
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
