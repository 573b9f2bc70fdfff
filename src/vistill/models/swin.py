"""Swin transformers, first and second version, in timm's implementation (spec fd 2.4, 4)."""

import copy
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistill.image_size import (
    ImageSize,
    fits,
    height_width,
    nearest_fitting,
    plain_size,
    shown_size,
)
from vistill.models.backbone import Backbone, Normalization, Tap, TapKind
from vistill.models.drop_path import DropPath
from vistill.models.initialization import truncated_normal
from vistill.models.positions import resize_position_table
from vistill.models.taps import Draws, Images, Taps, Visible

_NEAR_IDENTITY = 1e-5
_PATHS = ("drop_path1", "drop_path2")
NO_DECAY = ("cpb_mlp", "logit_scale", "relative_position_bias_table", "absolute_pos_embed")
"""Parts of the names of matrices that are published without weight decay."""


class SwinBackbone(Backbone):
    """A Swin transformer with the output of every block as a tap; widths double between stages.

    Args:
        version: 1, or 2 (post-norm, cosine attention, continuous position bias).
        image_size: side of the square input, or (height, width).
        patch_size: side of a patch.
        embed_dim: channels of the first stage.
        depths: blocks of every stage.
        num_heads: attention heads of every stage.
        window_size: side of an attention window in tokens, or (height, width); at most the grid of
            the stage.
        mlp_ratio: hidden width of the MLPs.
        ape: learned absolute positions behind the patch embedding.
        extra_norm_period: a further norm behind every so many blocks of a stage; None: nowhere.
        qk_scale: factor of the products of queries and keys (version 1); None: (channels of a
            head)^-0.5.
        key_bias: learned biases of the keys, which are zero otherwise (version 2).
        share_bias: one position bias network for all blocks of a stage (version 2).
        pretrained_windows: of every stage, the window by which its coordinates are scaled (version
            2, fine-tuned with larger windows); None: its own.
        normalization: statistics of its inputs.

    Raises:
        ValueError: if the last stage would have a single token, or the version has no such part.
    """

    def __init__(
        self,
        *,
        version: int,
        image_size: ImageSize,
        patch_size: int = 4,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int | Sequence[int],
        mlp_ratio: float = 4.0,
        ape: bool = False,
        extra_norm_period: int | None = None,
        qk_scale: float | None = None,
        key_bias: bool = False,
        share_bias: bool = False,
        pretrained_windows: Sequence[int] | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self._args = {
            "version": version,
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depths": list(depths),
            "num_heads": list(num_heads),
            "window_size": window_size if isinstance(window_size, int) else list(window_size),
            "mlp_ratio": mlp_ratio,
        }
        if version == 2 and qk_scale is not None:
            raise ValueError("a SwinV2 learns the scale of its attention; leave qk_scale out")
        if version == 1 and key_bias:
            raise ValueError("a Swin of the first version has biases of its keys in any case")
        self._parts = {"ape": ape, "extra_norm_period": extra_norm_period, "qk_scale": qk_scale}
        self._parts = {k: v for k, v in (self._parts | {"key_bias": key_bias}).items() if v}
        height, width = height_width(image_size)
        pitch = patch_size * 2 ** (len(depths) - 1)
        if not fits(image_size, pitch) or min(height, width) < 2 * pitch:
            enough = max(height, 2 * pitch), max(width, 2 * pitch)
            raise ValueError(
                f"a Swin of {len(depths)} stages needs a multiple of {pitch} pixels, at least "
                f"{2 * pitch}, not {shown_size(image_size)}; "
                f"{nearest_fitting(enough, pitch)} would do"
            )
        # Here, since it takes longer than all else that a run without a Swin imports.
        from timm.models.swin_transformer import SwinTransformer
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        kind = SwinTransformer if version == 1 else SwinTransformerV2
        scaled: dict[str, Any] = {}
        if pretrained_windows is not None:
            self._args["pretrained_windows"] = list(pretrained_windows)
            scaled["pretrained_window_sizes"] = tuple(pretrained_windows)
        self.module: Any = kind(
            img_size=(height, width),
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=height_width(window_size),
            mlp_ratio=mlp_ratio,
            num_classes=0,
            drop_path_rate=0.0,
            **scaled,
        )
        self.share_bias = share_bias
        self._add_parts((height // patch_size, width // patch_size), embed_dim)
        if version == 2:
            self._initialize()
        if share_bias:
            layers: Any = self.module.layers
            for first, *others in (stage.blocks for stage in layers):
                for block in others:
                    block.attn.cpb_mlp = first.attn.cpb_mlp
        self.depths = tuple(depths)
        self.width, self.depth = embed_dim * 2 ** (len(depths) - 1), sum(depths)
        self.num_heads = tuple(
            heads for heads, n in zip(num_heads, depths, strict=True) for _ in range(n)
        )
        self.num_prefix_tokens = 0
        self.image_size = (height, width)
        self.window_size = window_size
        self.normalization = normalization or Normalization()
        self.taps = frozenset[TapKind](("block", "norm"))
        self.pools_after_norm = True
        self.activation_checkpointing = False
        self.origin, self.untrained = "random", True

    @property
    def build(self) -> dict[str, Any]:  # type: ignore[override]
        """What `vistill.models.build` needs to make this architecture again."""
        arguments = {"image_size": plain_size(self.image_size), "share_bias": self.share_bias}
        return {"name": "swin", "args": arguments | self._args | self._parts}

    @property
    def timm_build(self) -> dict[str, Any] | None:
        """`timm.create_model` arguments that build the same network; None: timm has no such."""
        if self._parts:
            return None
        arguments = dict(self._args)
        second = arguments.pop("version") == 2
        if (windows := arguments.pop("pretrained_windows", None)) is not None:
            arguments["pretrained_window_sizes"] = windows
        name = "swinv2_base_window8_256" if second else "swin_base_patch4_window7_224"
        return {
            "model_name": name,
            "img_size": plain_size(self.image_size),
            "num_classes": 0,
            **arguments,
        }

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages, first to last."""
        return [block for stage in self.module.layers for block in stage.blocks]

    def _add_parts(self, grid: tuple[int, int], width: int) -> None:
        """What timm's networks do not have, under the published names."""
        if "ape" in self._parts:
            table = torch.zeros(1, grid[0] * grid[1], width)
            self.module.absolute_pos_embed = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        period = self._parts.get("extra_norm_period")
        for stage in self.module.layers:
            for number, block in enumerate(stage.blocks, start=1):
                if period is not None and number % period == 0:
                    block.enorm = nn.LayerNorm(block.dim)
                if "qk_scale" in self._parts:  # which the fused kernel is not told
                    block.attn.scale, block.attn.fused_attn = self._parts["qk_scale"], False
                if "key_bias" in self._parts:
                    zeros = torch.zeros_like(block.attn.q_bias)
                    del block.attn.k_bias
                    block.attn.k_bias = nn.Parameter(zeros)

    def _initialize(self) -> None:
        """Truncated normal without truncation to speak of; blocks begin close to the identity."""
        truncated_normal(self.module, bound=2.0)
        for block in self.blocks:
            for name in ("norm1.weight", "norm2.weight"):
                nn.init.constant_(block.get_parameter(name), _NEAR_IDENTITY)

    def unshare_relative_position(self) -> None:
        """Give every block its own copy of a shared bias network, as fine-tuning does (spec fd)."""
        if self.share_bias:
            for block in self.blocks:
                attention: Any = block.attn
                attention.cpb_mlp = copy.deepcopy(attention.cpb_mlp)
            self.share_bias = False

    def set_drop_path(self, rates: Sequence[float]) -> None:
        """Stochastic depth, one rate per block."""
        for block, rate in zip(self.blocks, rates, strict=True):
            for name in _PATHS:
                drop = DropPath(rate) if rate > 0 else nn.Identity()
                setattr(block, name, drop.train(block.training))

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`: two for every block with a non-zero rate."""
        return sum(isinstance(getattr(b, name), DropPath) for b in self.blocks for name in _PATHS)

    def resize(self, image_size: ImageSize) -> None:
        """Accept another input size, side or (height, width), with the same windows."""
        size = height_width(image_size)
        if "ape" in self._parts:
            patch: Any = self._args["patch_size"]
            old, new = ((h // patch, w // patch) for h, w in (self.image_size, size))
            table: nn.Parameter = self.module.absolute_pos_embed
            with torch.no_grad():
                resized = resize_position_table(table, 0, old, new)
            self.module.absolute_pos_embed = nn.Parameter(resized, table.requires_grad)
        self.module.set_input_size(img_size=size, window_size=height_width(self.window_size))
        self.image_size = size

    def parameter_layers(self) -> dict[str, int]:
        """As published (spec fd 5.2): patch embedding 0, block k (from 1) its number, merging that
        of the block in front of it, final norm behind all."""
        return {name: self._layer_of(name) for name, _ in self.named_parameters()}

    def _layer_of(self, name: str) -> int:
        found = re.match(r"module\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name)
        if found is None:
            return 0 if name.startswith("module.patch_embed.") else self.depth + 1
        before = sum(self.depths[: int(found[1])])
        return before if found[2] is None else before + int(found[2]) + 1

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens of the last stage's width behind the final norm."""
        return self.module.norm(tokens)

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        if visible is not None:
            raise ValueError("a Swin transformer cannot be shown some of its tokens only")
        for tap in taps:
            if tap.kind not in self.taps or not 1 <= tap.block <= self.depth:
                raise ValueError(f"this Swin of {self.depth} blocks has no tap {tap}")
        deepest = max(self.depth if tap.kind == "norm" else tap.block for tap in taps)
        wanted = {tap.block for tap in taps if tap.kind == "block"}
        found: dict[Tap, Tensor] = {}
        x, number = self.module.patch_embed(images), 0
        if "ape" in self._parts:
            x = x + self.module.absolute_pos_embed.view(1, *x.shape[1:])
        draws = iter(() if drop_path_noise is None else drop_path_noise)
        for stage in self.module.layers:
            if number == deepest:
                break
            x = stage.downsample(x)
            for block in stage.blocks:
                number += 1
                drops = [p for p in (block.drop_path1, block.drop_path2) if isinstance(p, DropPath)]
                own = [next(draws, None) for _ in drops]
                if self.activation_checkpointing and self.training:
                    x = checkpoint(_run, block, x, drops, own, use_reentrant=False)
                else:
                    x = _run(block, x, drops, own)
                if number in wanted:
                    found[Tap("block", number)] = x.flatten(1, 2)
                if number == deepest:
                    break
        for tap in taps:
            if tap.kind == "norm":
                found[tap] = self.final_norm(x).flatten(1, 2)
        return {tap: found[tap] for tap in taps}


def _run(block: Any, x: Tensor, drops: list[DropPath], draws: list[Tensor | None]) -> Tensor:
    """One block with its drop path's draws, which a recomputation in the backward pass needs, too,
    and the norm behind it, if any."""
    for part, draw in zip(drops, draws, strict=True):
        part.draw = draw
    x = block(x)
    return block.enorm(x) if hasattr(block, "enorm") else x
