"""The formats that a model is exported in: how each is written, and how it is read back to be checked.

Shapes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vitray.model_config import ModelConfig
from vitray.models.export_program import as_text
from vitray.models.vit import VisionTransformer
from vitray.models.weights_file import write_weights

Write = Callable[[nn.Module, Tensor, Mapping[str, Any], Path], None]
Read = Callable[[Path], Callable[[Tensor], Tensor]]

BATCH = {0: Dim("batch", min=1)}  # the one size that stays free


@dataclass(frozen=True)
class Format:
    """One format; its files end in its name.

    Args:
        write: (module, example images, description, path).
        read: the function that a file holds.
        whole: it holds the computation, not weights alone.
        needs: packages that are no dependency of vitray.
        limit: bytes of weights that one file can hold.
    """

    name: str
    write: Write
    read: Read
    whole: bool = True
    needs: tuple[str, ...] = ()
    limit: int | None = None

    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _write_safetensors(module: nn.Module, images: Tensor, facts: Mapping[str, Any], path: Path) -> None:
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    write_weights(path, weights, as_text(facts) | {"format": "pt"})  # "pt" is the field's mark for torch's layout


def _read_safetensors(path: Path) -> Callable[[Tensor], Tensor]:
    with safe_open(path, framework="pt") as file:
        config = ModelConfig(**json.loads(file.metadata()["model"]))
    with torch.device("meta"):
        model = VisionTransformer(config)
    model.load_state_dict(load_file(path), assign=True)
    return model.eval().requires_grad_(False)


def _traced(module: nn.Module, images: Tensor) -> ExportedProgram:
    program = torch.export.export(module, (images,), dynamic_shapes=(BATCH,))
    program.example_inputs = None  # they would be stored, as a pickle
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _write_pt2(module: nn.Module, images: Tensor, facts: Mapping[str, Any], path: Path) -> None:
    extra = {"vitray.json": json.dumps(facts, indent=2)}
    torch.export.save(_traced(module, images), path, extra_files=extra)


def _read_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(path).module()


def _write_onnx(module: nn.Module, images: Tensor, facts: Mapping[str, Any], path: Path) -> None:
    program = torch.onnx.export(
        _traced(module, images),
        dynamic_shapes=(BATCH,),
        input_names=["images"],
        output_names=["output"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    graph = program.model.graph
    # Notes of the tracing, as long as a small model's weights.
    for node in graph.all_nodes():
        node.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    program.model.metadata_props.update(as_text(facts))
    program.save(path)


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


FORMATS = {
    known.name: known
    for known in (
        Format("safetensors", _write_safetensors, _read_safetensors, whole=False),
        Format("pt2", _write_pt2, _read_pt2),
        # onnxruntime only to check the file; a protocol buffer ends at 2 GiB, of which the graph needs a little.
        Format("onnx", _write_onnx, _read_onnx, needs=("onnx", "onnxscript", "onnxruntime"), limit=2**31 - 2**25),
    )
}
