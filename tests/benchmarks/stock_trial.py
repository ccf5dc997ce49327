"""The stock pattern of Ray's documentation for tuning: a function trainable that builds a TorchTrainer over Ray Data,
whose reports TuneReportCallback hands to Tune."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vitray.experiment import Experiment
from vitray.train.resources import GroupPlan


def trainable(
    data: str,
    groups: GroupPlan,
    folder: Path,
    experiments: list[Experiment],
    *,
    validate: bool,
    named: Callable[[int], str] = lambda index: f"trial{index}",
) -> Callable[[dict[str, Any]], None]:
    """For Tune: runs ``experiments[config["index"]]``; its first step is stamped in ``folder/first_steps/INDEX``.

    ``groups`` says how many trials run at once, and the ranks and threads of each.
    """
    # The stock reader lists its files in a task of one whole CPU, whatever it is told, and waits for ever for it.
    ranks = groups.ranks * groups.groups
    rank_cpus = min(groups.rank_cpus, ((os.cpu_count() or 1) - 1) / ranks)
    stamps = folder / "first_steps"
    stamps.mkdir(parents=True)

    def driver(config: dict[str, Any]) -> None:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        def split(name: str) -> Any:
            return ray.data.read_parquet(
                f"{data}/{name}", columns=["image", "label"], ray_remote_args={"num_cpus": groups.task_cpus}
            ).map_batches(_decode, num_cpus=groups.task_cpus)

        experiment = experiments[config["index"]]
        TorchTrainer(
            _train_loop,
            train_loop_config={
                "experiment": experiment.model_dump(mode="json"),
                "stamp": str(stamps / str(config["index"])),
                "workers": groups.ranks,
                "threads": groups.threads,
                "validate": validate,
            },
            scaling_config=ScalingConfig(num_workers=groups.ranks, resources_per_worker={"CPU": rank_cpus}),
            datasets={name: split(name) for name in ("train", "val")[: 1 + validate]},
            run_config=RunConfig(
                name=named(config["index"]), storage_path=str(folder / "train"), callbacks=[TuneReportCallback()]
            ),
        ).fit()

    return driver


def first_steps(folder: Path, trials: int) -> list[float]:
    """Unix times at which trials made their first step, by index."""
    return [float((folder / "first_steps" / str(index)).read_text()) for index in range(trials)]


def _decode(batch: dict[str, Any]) -> dict[str, Any]:
    import cv2
    import numpy as np

    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in batch["image"]]
    return {"image": np.stack(images), "label": batch["label"]}


def _train_loop(config: dict[str, Any]) -> None:
    import ray.train
    import torch
    from digits_steps import TRAIN_IMAGES, Training, padded, shifted
    from ray.train.torch import prepare_model

    experiment = Experiment(**config["experiment"])
    torch.set_num_threads(config["threads"])
    first = ray.train.get_context().get_world_rank() == 0
    train = ray.train.get_dataset_shard("train")
    shuffled = 4 * experiment.train.global_batch if config["validate"] else None
    batch_size, shift = experiment.train.global_batch // config["workers"], experiment.data.augment.shift
    steps = -(-TRAIN_IMAGES // experiment.train.global_batch)  # which the schedule needs to know
    training = Training(experiment, steps, Path(config["stamp"]) if first else None)
    training.model = prepare_model(training.model)
    for epoch in range(experiment.train.epochs):
        loss = torch.zeros(())
        for batch in train.iter_torch_batches(batch_size=batch_size, local_shuffle_buffer_size=shuffled):
            images = padded(batch["image"], shift)
            loss = training.step(shifted(images, torch.arange(len(images)), shift), batch["label"])
        metrics = {"epoch": epoch + 1, "loss": loss.item()}
        if config["validate"]:
            right = total = 0
            for batch in ray.train.get_dataset_shard("val").iter_torch_batches(batch_size=512):
                right += training.right(padded(batch["image"], 0).unsqueeze(1), batch["label"])
                total += len(batch["label"])
            metrics["val_accuracy"] = right / total
        ray.train.report(metrics)
