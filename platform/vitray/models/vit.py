"""The Vision Transformer, composed of its parts.

Shapes: B batch, C channels, H x W pixels, h x w patches, N = h*w, E prefix tokens (class token, then registers),
T = E + N tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from vitray.errors import ConfigError, DataError
from vitray.model_config import ModelConfig
from vitray.models.attention import Layout
from vitray.models.block import Block, LayerScale
from vitray.models.patch_embed import PatchEmbed
from vitray.models.position import Rotation, build_position
from vitray.models.resize import Grid


class VisionTransformer(nn.Module):
    """Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale".

    Modules and parameters bear timm's names, so with ``pos_encoding="learned"`` weights go both ways.

    Args:
        config: a resolved model: ``image_size``, ``in_chans`` and ``num_classes`` are set.

    Raises:
        ConfigError: one of those three is not set.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        for key in ("image_size", "in_chans", "num_classes"):
            if getattr(config, key) is None:
                raise ConfigError("is not set", where=f"model.{key}", remedy="set it, or resolve it from a dataset")
        assert config.in_chans is not None
        assert config.num_classes is not None
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.in_chans, config.patch_size, dim, config.patch_embed)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, dim)) if config.registers else None
        self.position = build_position(config)
        self.pos_embed = self.position.new_table()
        self.pos_drop = nn.Dropout(config.dropout)
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]  # deeper, more often
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, config.num_classes)
        self.init_weights()

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float -> logits (B, num_classes). See :meth:`forward_features` for sizes and errors."""
        tokens = self.forward_features(images)
        # The mean is over patches alone: the class token is not part of the image.
        pooled = tokens[:, 0] if self.config.pool == "cls" else tokens[:, self.num_prefix_tokens :].mean(dim=1)
        return self.head(pooled)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) float -> tokens (B, T, D) after the final norm.

        H and W may differ from the configured size; positions then follow as each encoding says.

        Raises:
            DataError: the images' shape does not fit the model, they are not float, or hold NaN or infinity (looked for
                on CPU, and on a GPU in evaluation; in training there the loss shows it).
        """
        grid = self._grid(images)
        patches = self.patch_embed(images)
        # shape[0], not len(): a number from len() would fix the batch size in an exported program.
        prefix = [p.expand(images.shape[0], -1, -1) for p in (self.cls_token, self.reg_token) if p is not None]
        x = torch.cat((*prefix, patches), dim=1)
        table = self.position.table(grid, self.pos_embed, x.device)
        if table is not None:
            x = x + table.to(x.dtype)
        x = self.pos_drop(x)
        rotation = self.position.rotation(grid, x.device)
        for i, block in enumerate(self.blocks):
            x = block(x, self.layout(grid, i, rotation))
        return self.norm(x)

    def layout(self, grid: Grid, block: int, rotation: Rotation | None) -> Layout:
        """What a block needs to know about positions on this grid."""
        axial = self.config.attention == "axial"
        return Layout(
            grid,
            self.num_prefix_tokens,
            rotation,
            None if axial else self.position.full_bias(grid, block),
            self.position.axial_bias(grid, block) if axial else None,
        )

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens that are no patch: the class token and the registers."""
        return 1 + self.config.registers

    def _grid(self, images: Tensor) -> Grid:
        """Patches (down, across) of these images. Refuses what is not images for this model."""
        p, c = self.config.patch_size, self.config.in_chans
        remedy = f"give float (batch, {c}, height, width), sides multiples of {p}; it was made for {self.config.size}"
        if images.ndim != 4 or images.shape[1] != c or any(side % p or not side for side in images.shape[2:]):
            raise DataError(f"images of shape {tuple(images.shape)} do not fit this model", remedy=remedy)
        if not images.is_floating_point():
            raise DataError(f"images are {images.dtype}", remedy=f"normalise them first (models.preprocess); {remedy}")
        weights = self.cls_token.dtype
        if images.dtype != weights and not torch.is_autocast_enabled(images.device.type):
            raise DataError(f"images are {images.dtype}, the weights {weights}", remedy=f"give images.to({weights})")
        if self._looks_into(images) and not math.isfinite(images.sum()) and not images.isfinite().all():
            first = int((~images.isfinite()).flatten(1).any(dim=1).nonzero()[0])
            what = f"image {first} of a batch of shape {tuple(images.shape)} holds NaN or infinity"
            raise DataError(what, remedy="look at how it was normalised: a std of 0, or a damaged file of floats")
        return images.shape[2] // p, images.shape[3] // p

    def _looks_into(self, images: Tensor) -> bool:
        """Whether values can be looked at, and cheaply: on a GPU that waits for the device, so not while training."""
        if torch.compiler.is_compiling() or images.is_meta or isinstance(images, FakeTensor):
            return False
        return images.device.type == "cpu" or not self.training

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are positions or tokens of their own, which decay would pull towards nothing."""
        tables = {f"position.{name}" for name, _ in self.position.named_parameters()}
        own = {name for name in ("pos_embed", "cls_token", "reg_token") if getattr(self, name) is not None}
        return tables | own

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fill every parameter from torch's global generator.

        Linear maps: normal with variance 1/fan_in, so that normalised inputs stay of unit size at every width (the
        usual fixed 0.02 is this rule at width 2500 and starves narrow models). Biases zero, norms the identity, head
        and class token 0.02.

        What a patch shows and where it lies weigh equally at the start. For encodings that are added, the patch
        projection is scaled so that tokens vary with content as much as with position, and its bias takes the table's
        mean away, which only dilutes both after normalisation. For those that act on attention, the logits start out
        varying with position as much as with content (see :class:`Relative` and :class:`Rope2d`). Otherwise small
        patches, whose content says little, are trained as a bag of patches: on 8 x 8 digits with patches of 2 pixels,
        learned positions at 0.02 beside tokens of size 1 reach 0.83 in the epochs in which these reach 0.98.
        """
        config, projection = self.config, self.patch_embed.proj
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        self.position.init_weights(self.pos_embed)
        table = self.position.table(config.grid, self.pos_embed, projection.weight.device)
        assert projection.bias is not None
        nn.init.zeros_(projection.bias)
        lecun_normal_(projection.weight)
        if table is not None:
            places = table.reshape(-1, config.embed_dim)[self.num_prefix_tokens :]
            mean = places.mean(dim=0)
            varies = (places - mean).square().mean().sqrt()
            projection.bias -= mean
            projection.weight *= torch.where(varies > 0, varies, 1.0)  # a single patch varies with content alone
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                lecun_normal_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, LayerScale):
                nn.init.constant_(module.gamma, module.initial)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.qkv.bias[: 2 * config.embed_dim], std=self.position.qk_bias_std)
        self.norm.reset_parameters()
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)


def lecun_normal_(weight: Tensor) -> None:
    """Normal with variance 1/fan_in (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    nn.init.normal_(weight, std=1 / math.sqrt(weight[0].numel()))
