"""The peer of fault_driver.py, a process of its own: a sweep with Ray Tune as its documentation has it.

    python tests/benchmarks/fault_driver_stock.py FOLDER

A function trainable that saves a checkpoint with each report, MLflowLoggerCallback, and ``Tuner.restore`` where the
sweep was begun before. Every epoch that is trained is a line of ``FOLDER/epochs``: trial, epoch, Unix time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

NAME, EPOCHS = "stock", 14
RATES = [0.001, 0.0015, 0.002, 0.003, 0.0035, 0.004]


def train(config: dict[str, Any]) -> None:
    import tempfile
    import time

    import torch
    from ray import tune
    from sklearn.datasets import load_digits
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = torch.utils.data.TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, 32), layer, nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    begin = 1
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["epoch"] + 1
    for epoch in range(begin, EPOCHS + 1):
        for x, y in torch.utils.data.DataLoader(data, batch_size=32, shuffle=True):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with (Path(config["folder"]) / "epochs").open("a") as file:
            file.write(f"{config['lr']} {epoch} {time.time()}\n")
        with tempfile.TemporaryDirectory() as made:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(made) / "state.pt")
            tune.report({"loss": loss.item(), "epoch": epoch}, checkpoint=tune.Checkpoint.from_directory(made))


def main(folder: Path) -> None:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    ray.init(address="local", log_to_driver=False, include_dashboard=False)
    trainable = tune.with_resources(train, {"cpu": 1})
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name=NAME)
    if tune.Tuner.can_restore(str(folder / NAME)):
        tuner = tune.Tuner.restore(str(folder / NAME), trainable, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"lr": tune.grid_search(RATES), "folder": str(folder)},
            tune_config=tune.TuneConfig(metric="loss", mode="min", max_concurrent_trials=2),
            run_config=tune.RunConfig(name=NAME, storage_path=str(folder), callbacks=[callback], verbose=0),
        )
    tuner.fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
