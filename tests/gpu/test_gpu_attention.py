"""On a GPU attention takes fused kernels, also with a bias that learns, and they compute the formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gpu_trace import attention_ops
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vitray.model_config import ModelConfig
from vitray.models import VisionTransformer
from vitray.models.attend import attend, attention_weights

pytestmark = pytest.mark.gpu
_WITH_BIAS = {"efficient_attention", "cudnn_attention"}  # those that know a bias
_FUSED = {"flash_attention", *_WITH_BIAS}


def step(model: VisionTransformer, images: Tensor) -> None:
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long, device=images.device))
    loss.backward()


@pytest.mark.parametrize("attention", ["full", "axial"])
@pytest.mark.parametrize("kind", ["learned", "rope_2d", "relative"])
def test_a_bfloat16_step_at_197_tokens_runs_fused_kernels_alone(gpu: torch.device, kind: str, attention: str) -> None:
    config = ModelConfig.preset(
        "vit_tiny", image_size=224, in_chans=3, num_classes=10, depth=2, pos_encoding=kind, attention=attention
    )
    torch.manual_seed(0)
    model, images = VisionTransformer(config).to(gpu), torch.randn(4, 3, 224, 224, device=gpu)
    ran = attention_ops(lambda: step(model, images))
    forward = {name for name in ran if not name.endswith("_backward")}
    assert forward
    assert forward <= (_FUSED if kind != "relative" or attention == "axial" else _WITH_BIAS)
    assert ran == forward | {f"{name}_backward" for name in forward}
    if kind == "relative":
        for name, table in model.position.named_parameters():
            assert table.grad is not None, name
            assert table.grad.norm() > 0, name


def tensors(bias_grad: bool, gpu: torch.device, tokens: int = 197) -> list[Tensor]:
    """Queries, keys, values (2, 3, T, 64), a gradient of the output, and a bias (3, T, T), all bfloat16."""
    torch.manual_seed(0)
    q, k, v, up = (torch.randn(2, 3, tokens, 64, device=gpu).bfloat16() for _ in range(4))
    bias = torch.randn(3, tokens, tokens, device=gpu).mul(2).bfloat16()
    for tensor in (q, k, v):
        tensor.requires_grad_()
    return [q, k, v, up, bias.requires_grad_(bias_grad)]


@pytest.mark.parametrize("tokens", [15, 65, 197])  # 15: a line of axial attention with its class token
@pytest.mark.parametrize("bias_grad", [False, True])
def test_the_efficient_kernel_with_a_bias_is_the_formula_in_float64(
    gpu: torch.device, bias_grad: bool, tokens: int
) -> None:
    q, k, v, up, bias = tensors(bias_grad, gpu, tokens)
    wanted = [q, k, v, bias] if bias_grad else [q, k, v]
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):  # raises where that kernel cannot
        out = attend(q, k, v, bias)
        found = torch.autograd.grad(out, wanted, up)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in (q, k, v, bias)]
    truth = attention_weights(exact[0], exact[1], exact[3]) @ exact[2]
    gradients = torch.autograd.grad(truth, exact[: len(wanted)], up.double())
    for ours, right in zip((out, *found), (truth, *gradients), strict=True):
        error = (ours.double() - right).norm() / right.norm()
        assert error < 0.02, "bfloat16 keeps 8 bits: each value is off by up to 0.4 %"


def test_flash_attention_without_a_bias_is_the_formula_in_float64(gpu: torch.device) -> None:
    q, k, v, up, _ = tensors(False, gpu)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = attend(q, k, v)
        found = torch.autograd.grad(out, [q, k, v], up)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    truth = attention_weights(exact[0], exact[1]) @ exact[2]
    for ours, right in zip((out, *found), (truth, *torch.autograd.grad(truth, exact, up.double())), strict=True):
        assert (ours.double() - right).norm() / right.norm() < 0.02
