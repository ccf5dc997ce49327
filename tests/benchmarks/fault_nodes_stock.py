"""A training on Ray Train as its documentation shows it: fault tolerance by a checkpoint an epoch and ``max_failures``.

The model and the images are those of tests/faults/killed_nodes.py. Each rank writes down when it begins a step, as
tests/ledger.py does. Environment: ``STOCK_DATA`` (.npz), ``STOCK_STORAGE``, ``VITRAY_TEST_LEDGER``.
"""

from __future__ import annotations

import os
from typing import Any


def train_loop(config: dict[str, Any]) -> None:
    import json
    import tempfile
    import time
    from pathlib import Path

    import numpy as np
    import ray.train
    import torch
    import torch.nn.functional as F
    from ray.train import Checkpoint
    from ray.train.torch import prepare_model

    from vitray.experiment import ModelConfig
    from vitray.models import VisionTransformer

    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    data = np.load(config["data"])
    images, labels = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    torch.manual_seed(0)
    model = prepare_model(VisionTransformer(ModelConfig(**config["model"])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    epoch, batch = 0, config["batch"]
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch = saved["epoch"] + 1
    steps = -(-len(labels) // batch)
    with (Path(config["ledger"]) / f"{time.time():.6f}-{os.getpid()}.steps").open("a", buffering=1) as ledger:
        while True:
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
            for step in range(steps):
                mine = order[step * batch : (step + 1) * batch][rank::size]
                line = {"step": epoch * steps + step + 1, "rank": rank, "size": size, "samples": mine.tolist()}
                print(json.dumps({**line, "at": time.time()}), file=ledger)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images[mine]), labels[mine])
                loss.backward()
                optimizer.step()
            with tempfile.TemporaryDirectory() as folder:
                kept = None
                if rank == 0:
                    state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                    torch.save(state, Path(folder) / "checkpoint.pt")
                    kept = Checkpoint.from_directory(folder)
                ray.train.report({"loss": loss.item(), "epoch": epoch}, checkpoint=kept)
            epoch += 1


def main() -> None:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(address=os.environ["RAY_ADDRESS"])
    model = {"image_size": 8, "in_chans": 1, "num_classes": 10, "patch_size": 2, "embed_dim": 128, "depth": 6}
    config = {"data": os.environ["STOCK_DATA"], "ledger": os.environ["VITRAY_TEST_LEDGER"], "batch": 64}
    TorchTrainer(
        train_loop,
        train_loop_config={**config, "model": {**model, "num_heads": 4}},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.75}),
        run_config=RunConfig(
            name="stock",
            storage_path=os.environ["STOCK_STORAGE"],
            failure_config=FailureConfig(max_failures=-1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


if __name__ == "__main__":
    main()
