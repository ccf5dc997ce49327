"""``vitray models cost``: what a model takes, before it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vitray.cli.output import emit, grid, output_option

if TYPE_CHECKING:
    from vitray.experiment import Experiment

_GIGA, _MEGA = 1e9, 1e6
_DECIDED_BY_DATA = "model.in_chans=3 model.num_classes=10 data.image_size=32"


@click.command()
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--batch", type=click.IntRange(min=1), help="Images on a device at once; by default what CONFIG gives.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="By default what training would use on this machine."
)
@output_option
def cost(config: str, overrides: tuple[str, ...], batch: int | None, device: str | None, output: str) -> None:
    """Parameters, operations and memory of CONFIG's model. Nothing is allocated or computed.

    OVERRIDES are section.key=value. What the data decide (image size, channels, classes) is read from them, or can be
    given: model.in_chans=3 model.num_classes=10 data.image_size=32.
    """
    experiment, images = _resolved(config, overrides)
    emit(facts := _facts(experiment, images, batch, device), output, table=lambda: _page(facts))


def _resolved(config: str, overrides: tuple[str, ...]) -> tuple[Experiment, int | None]:
    """The experiment, and how many images it trains on where the data are there."""
    from vitray.cluster.launch import Prepared
    from vitray.cluster.weights import with_weights
    from vitray.errors import DataError
    from vitray.experiment import Experiment

    experiment = Experiment.load(config, overrides)
    model, size = experiment.model, experiment.data.image_size or experiment.model.image_size
    if size is not None and model.in_chans is not None and model.num_classes is not None:
        given = with_weights(experiment)  # which know their model
        return given.resolve(image_size=size, in_chans=model.in_chans, num_classes=model.num_classes), None
    try:
        prepared = Prepared.of(experiment, "")
    except DataError as error:
        remedy = f"{error.remedy}; or say what they would decide: {_DECIDED_BY_DATA}"
        raise DataError(error.what, where=error.where, remedy=remedy) from None
    return prepared.experiment, prepared.data.num_samples(experiment.train.split)


def _facts(experiment: Experiment, images: int | None, batch: int | None, device: str | None) -> dict[str, Any]:
    from vitray.cluster.machine import Machine
    from vitray.model_size import flops, flops_by_part, parameters_by_part
    from vitray.train.memory import rank_images

    here = Machine.here()
    batch = batch or rank_images(experiment)
    if device is None:
        wanted = experiment.cluster.use_gpu
        device = "cuda" if (here.gpus > 0 if wanted == "auto" else wanted) else "cpu"
    import torch

    from vitray.models.cost import memory
    from vitray.train.precision import precision_of

    precision = precision_of(experiment, torch.device(device))
    model, operations = experiment.model, flops(experiment.model)
    taken = memory(model, batch, precision, "cuda" if device == "cuda" else "cpu")
    have = here.gpu_memory if device == "cuda" else here.node_memory
    average = taken.parameters if experiment.train.ema else 0
    parameters, forward = parameters_by_part(model), flops_by_part(model)
    seen = None if images is None else images * experiment.train.epochs
    return {
        "model": model.model_dump(mode="json"),
        "parameters": sum(parameters.values()),
        "parts": {part: {"parameters": parameters[part], "forward_flops": forward[part]} for part in parameters},
        "flops_per_image": {"forward": operations.forward, "training": operations.training},
        "training_flops": None if seen is None else seen * operations.training,
        "images": images,
        "epochs": experiment.train.epochs,
        "freeze": experiment.train.freeze,
        "memory": {
            **vars(taken),
            "ema": average,
            "peak": taken.peak + average,
            "batch": batch,
            "precision": precision,
            "device": device,
            "here": have,
        },
    }


def _page(facts: dict[str, Any]) -> str:
    model, memory = facts["model"], facts["memory"]
    per_image, total = facts["flops_per_image"], facts["parameters"]
    unit, name = (_GIGA, "GFLOP") if per_image["forward"] >= _GIGA else (_MEGA, "MFLOP")
    rows = [
        [part, f"{size['parameters']:,}", f"{size['forward_flops'] / unit:.4g}"]
        for part, size in facts["parts"].items()
        if size["parameters"]
    ]
    rows.append(["all", f"{total:,}", f"{per_image['forward'] / unit:.4g}"])
    height, width = model["image_size"] if isinstance(model["image_size"], list) else [model["image_size"]] * 2
    lines = [
        f"patch {model['patch_size']} of {height} x {width} px, {model['in_chans']} channels, width "
        f"{model['embed_dim']}, depth {model['depth']}, {model['num_heads']} heads, {model['attention']} attention, "
        f"positions {model['pos_encoding']}, {model['num_classes']} classes",
        "",
        grid(rows, ["part", "parameters", f"{name} an image, forward"]),
        "",
        f"a training step takes {per_image['training'] / unit:.4g} {name} an image",
    ]
    if facts["training_flops"] is not None:
        seen = f"{facts['epochs']} epochs of {facts['images']:,} images"
        lines.append(f"the whole training takes {facts['training_flops']:.3g} FLOP ({seen})")
    where = "a GPU" if memory["device"] == "cuda" else "a CPU"
    kept = [
        [what, _size(memory[what])] for what in ("parameters", "gradients", "optimizer", "ema", "activations", "peak")
    ]
    header = f"memory of a step of {memory['batch']} images in {memory['precision']} on {where}"
    lines += ["", grid(kept, [header, ""])]
    if facts["freeze"] != "none":
        lines.append(f"(all of it learning: with train.freeze={facts['freeze']} a step takes less)")
    if memory["here"] is not None:
        fits = "fits" if memory["peak"] <= memory["here"] else "does not fit"
        lines.append(f"({fits}: {_size(memory['here'])} here)")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.2f} MiB"
