"""Do torch and torchvision load together, and do they see the GPUs that the driver has?"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from vitray.cluster.doctor.finding import Finding, blocks, ok, warning
from vitray.cluster.machine import gpus_present, visible_gpus

_PATIENCE_S = 120.0
# In a process of its own: it takes seconds, beside the other checks, and a broken pair may take the process with it.
# -P: not from the current folder.
_CODE = """
import json, warnings
warnings.simplefilter("ignore")
import torch, torchvision
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
found = {"build": torch.version.cuda, "gpus": []}
if torch.cuda.is_available():
    found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    torch.zeros(8, device="cuda").sum().item()
    found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    found["nccl_ready"] = torch.distributed.is_nccl_available()
print(json.dumps(found))
"""


class TorchLook:
    """Begins to look when it is made; :meth:`findings` waits for it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def findings(self) -> list[Finding]:
        try:
            said, wrong = self._process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            what = f"torch did not load within {_PATIENCE_S:.0f} s"
            return [blocks("torch", what, "is the disk that Python is installed on slow, or the GPU's driver stuck?")]
        if self._process.returncode:
            last = (wrong.strip().splitlines() or [f"it ended with code {self._process.returncode}"])[-1]
            remedy = "install both again, from one index: pip install -c constraints.txt torch torchvision"
            return [blocks("torch", f"torch and torchvision do not work together: {last[:200]}", remedy)]
        return [ok("torch", "torch and torchvision load together"), _gpus(json.loads(said.splitlines()[-1]))]


def _gpus(found: dict[str, Any]) -> Finding:
    present, seen = gpus_present(), found["gpus"]
    if seen and not found["nccl_ready"]:
        return warning("gpu", f"{len(seen)} GPUs, and this torch has no NCCL", "install torch's CUDA build")
    if seen:
        hidden = f"; {present - len(seen)} more are hidden from this process" if present > len(seen) else ""
        return ok("gpu", f"{len(seen)} x {seen[0]}, CUDA {found['build']}, NCCL {found['nccl']}{hidden}")
    if not present:
        return ok(
            "gpu", "no GPU here: training runs on CPUs" + (" (torch's CUDA build does)" if found["build"] else "")
        )
    if visible_gpus() == []:
        return ok("gpu", f"{present} GPUs are hidden by CUDA_VISIBLE_DEVICES: training runs on CPUs")
    what = f"the driver has {present} GPUs, and torch sees none"
    if not found["build"]:
        return blocks("gpu", f"{what}: it is a build for CPUs", "install torch's CUDA build")
    return blocks("gpu", f"{what} (built for CUDA {found['build']})", "run nvidia-smi; a newer driver may be needed")
