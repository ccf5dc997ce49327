"""Tensors copied out of the step: straight into the bytes of the files that will hold them, in memory used again.

A file's bytes are those of ``.safetensors`` (eight bytes of header length, a JSON header, the data), so that what is
left for the background is one pass over contiguous memory, in which it is written and its checksum taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ALIGN = 64
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_TYPES = {name: kind for kind, name in _NAMES.items()}
_Shape = tuple[str, torch.dtype, torch.Size]


class TensorFile:
    """The bytes of one file of tensors, and a view of each tensor in them.

    Args:
        shapes: name, dtype and shape of each, by name.
        pinned: page-locked, so that a GPU's copies need not be waited for.
    """

    def __init__(self, shapes: tuple[_Shape, ...], *, pinned: bool) -> None:
        self.shapes = shapes
        entries: dict[str, Any] = {}
        offset = 0
        # The widest first: then each lies at a multiple of its elements' size.
        for name, kind, shape in sorted(shapes, key=lambda s: (-s[1].itemsize, s[0])):
            size = shape.numel() * kind.itemsize
            entries[name] = {
                "dtype": _NAMES[kind],
                "shape": list(shape),
                "data_offsets": [offset, offset + size],
            }
            offset += size
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-(8 + len(header)) % _ALIGN)
        start = 8 + len(header)
        self.bytes = torch.empty(start + offset, dtype=torch.uint8, pin_memory=pinned)
        self.bytes[:start] = torch.frombuffer(bytearray(len(header).to_bytes(8, "little") + header), dtype=torch.uint8)
        self.tensors = _views(self.bytes, entries, start)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy them in. Those of a GPU are on their way when this returns."""
        sources = [tensors[name].detach() for name in self.tensors]
        if sources:  # an optimizer that has done no step holds none
            torch._foreach_copy_(list(self.tensors.values()), sources, non_blocking=True)

    @property
    def view(self) -> memoryview:
        return memoryview(self.bytes.numpy().data)


class Snapshot:
    """The files of one checkpoint. ``take`` may be called again when the files of the last time are written."""

    def __init__(self) -> None:
        self.files: dict[str, TensorFile] = {}
        self._event: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None
        self._watched: Any = None

    @torch.inference_mode(False)  # it may be asked for between the batches of an evaluation
    @torch.no_grad()
    def take(self, files: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> None:
        """Copy the tensors of each file.

        A GPU copies beside the next forward and backward pass: before ``optimizer`` changes weights, it waits for that.
        """
        device = next((t.device for tensors in files.values() for t in tensors.values() if t.is_cuda), None)
        for file, tensors in files.items():
            shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
            if file not in self.files or self.files[file].shapes != shapes:
                self.files.pop(file, None)  # first, so that its memory is free
                self.files[file] = TensorFile(shapes, pinned=device is not None)
        for gone in self.files.keys() - files.keys():
            del self.files[gone]
        if device is None:
            self._copy(files)
            return
        if self._stream is None:
            self._stream, self._event = torch.cuda.Stream(device), torch.cuda.Event()
        assert self._event is not None
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._copy(files)
            self._event.record()
        if self._watched is not optimizer:
            self._watched = optimizer
            optimizer.register_step_pre_hook(self._before_step)

    def _copy(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        for file, tensors in files.items():
            self.files[file].take(tensors)

    def _before_step(self, *_: Any) -> None:
        if self._event is not None:
            torch.cuda.current_stream().wait_event(self._event)  # the GPU waits, this process does not

    def arrived(self) -> None:
        """Wait until all that was taken is here; the background does so before it reads."""
        if self._event is not None:
            self._event.synchronize()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes.numel() for file in self.files.values())


def tensors_in(data: Tensor) -> dict[str, Tensor]:
    """The tensors in the bytes of a file, uint8 (N,): views of them. The bytes are known to be those that were written.

    Raises:
        ValueError: they are no such file.
    """
    length = int.from_bytes(bytes(data[:8].tolist()), "little")
    if not 0 < length <= data.numel() - 8:
        raise ValueError("its header does not fit")
    entries = json.loads(data[8 : 8 + length].numpy().tobytes())
    entries.pop("__metadata__", None)
    return _views(data, entries, 8 + length)


def _views(data: Tensor, entries: Mapping[str, Mapping[str, Any]], start: int) -> dict[str, Tensor]:
    views = {}
    for name, entry in entries.items():
        first, last = (start + at for at in entry["data_offsets"])
        kind, part = _TYPES[entry["dtype"]], data[first:last]
        if first % kind.itemsize:
            part = part.clone()  # written by another program
        views[name] = part.view(kind).view(entry["shape"])
    return views
