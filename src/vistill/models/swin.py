"""Swin transformers, first and second version, in timm's implementation, and the published names
of their weights (EsViT, feature distillation; spec fd 2.4, 4)."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from timm.layers.drop import DropPath
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistill.models.backbone import Backbone, Normalization, Tap, TapKind
from vistill.models.initialization import truncated_normal
from vistill.models.taps import Draws, Images, Taps, Visible

# Buffers that follow from the sizes, and heads that a backbone has no use for.
_LEFT_OUT = re.compile(
    r"(relative_position_index|relative_coords_table|attn_mask)$|^head|^decoder\.|^feature_model\."
)
_NEAR_IDENTITY = 1e-5
NO_DECAY = ("cpb_mlp", "logit_scale", "relative_position_bias_table")
"""Parts of the names of matrices that are published without weight decay."""


class SwinBackbone(Backbone):
    """A Swin transformer with the output of every block as a tap; widths double between stages.

    Args:
        version: 1, or 2 (post-norm, cosine attention, continuous position bias).
        image_size: side of the square input.
        patch_size: side of a patch.
        embed_dim: channels of the first stage.
        depths: blocks of every stage.
        num_heads: attention heads of every stage.
        window_size: side of an attention window in tokens; at most the grid of the stage.
        mlp_ratio: hidden width of the MLPs.
        share_bias: one position bias network for all blocks of a stage (version 2).
        normalization: statistics of its inputs.

    Raises:
        ValueError: if the last stage would have a single token.
    """

    def __init__(
        self,
        *,
        version: int,
        image_size: int,
        patch_size: int = 4,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float = 4.0,
        share_bias: bool = False,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self._args = {
            "version": version,
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depths": list(depths),
            "num_heads": list(num_heads),
            "window_size": window_size,
            "mlp_ratio": mlp_ratio,
        }
        pitch = patch_size * 2 ** (len(depths) - 1)
        if image_size % pitch or image_size < 2 * pitch:
            raise ValueError(
                f"a Swin of {len(depths)} stages needs a multiple of {pitch} pixels, at least "
                f"{2 * pitch}, not {image_size}"
            )
        kind = SwinTransformer if version == 1 else SwinTransformerV2
        self.module: Any = kind(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            num_classes=0,
            drop_path_rate=0.0,
        )
        self.share_bias = share_bias
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
        self.image_size = (image_size, image_size)
        self.normalization = normalization or Normalization()
        self.taps = frozenset[TapKind](("block", "norm"))
        self.pools_after_norm = True
        self.activation_checkpointing = False
        self.origin = "random"

    @property
    def build(self) -> dict[str, Any]:  # type: ignore[override]
        """What `vistill.models.build` needs to make this architecture again."""
        arguments = {"image_size": self.image_size[0], "share_bias": self.share_bias}
        return {"name": "swin", "args": arguments | self._args}

    @property
    def timm_build(self) -> dict[str, Any]:
        """`timm.create_model` arguments that build the same network."""
        arguments = dict(self._args)
        second = arguments.pop("version") == 2
        name = "swinv2_base_window8_256" if second else "swin_base_patch4_window7_224"
        return {
            "model_name": name,
            "img_size": self.image_size[0],
            "num_classes": 0,
            **arguments,
        }

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages, first to last."""
        return [block for stage in self.module.layers for block in stage.blocks]

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
            for name in ("drop_path1", "drop_path2"):
                drop = DropPath(rate) if rate > 0 else nn.Identity()
                setattr(block, name, drop.train(block.training))

    def resize(self, image_size: int) -> None:
        """Accept another input size, with the same windows."""
        self.module.set_input_size(
            img_size=(image_size, image_size), window_size=(self._args["window_size"],) * 2
        )
        self.image_size = (image_size, image_size)

    def layer_of(self, name: str) -> int:
        """Layer of a parameter for layer-wise learning rates, as published (spec fd 5.2).

        Patch embedding 0, block k (from 1) its number, merging that of the block in front of it,
        final norm behind all.
        """
        found = re.match(r"module\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name)
        if found is None:
            return 0 if name.startswith("module.patch_embed.") else self.depth + 1
        before = sum(self.depths[: int(found[1])])
        return before if found[2] is None else before + int(found[2]) + 1

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
        for stage in self.module.layers:
            if number == deepest:
                break
            x = stage.downsample(x)
            for block in stage.blocks:
                number += 1
                if self.activation_checkpointing and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
                if number in wanted:
                    found[Tap("block", number)] = x.flatten(1, 2)
                if number == deepest:
                    break
        for tap in taps:
            if tap.kind == "norm":
                found[tap] = self.module.norm(x).flatten(1, 2)
        return {tap: found[tap] for tap in taps}


def is_swin(state: dict[str, Tensor]) -> bool:
    """Whether a state dict carries the published names of a Swin transformer."""
    return "layers.0.blocks.0.attn.qkv.weight" in state


def swin_from_state(
    state: dict[str, Tensor], *, stages: int | None = None
) -> tuple[SwinBackbone, dict[str, Tensor]]:
    """A Swin with the sizes that published weights tell, and the weights under its names.

    The side of the input follows from the mask of shifted windows; 224 where there is none.

    Args:
        state: weights under Microsoft's names.
        stages: build the first stages only; the final norm then has no weights of its own.
    """
    depths = [0]
    for name in state:
        found = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if found is not None:
            depths += [0] * (int(found[1]) + 1 - len(depths))
            depths[int(found[1])] = max(depths[int(found[1])], int(found[2]) + 1)
    depths = depths[:stages]
    first = "layers.0.blocks.0."
    second = f"{first}attn.logit_scale" in state
    scales = "attn.logit_scale" if second else "attn.relative_position_bias_table"
    heads = [
        state[f"layers.{i}.blocks.0.{scales}"].shape[0 if second else 1] for i in range(len(depths))
    ]
    kernel = state["patch_embed.proj.weight"]
    window = _window(state, first)
    mask = state.get("layers.0.blocks.1.attn_mask")
    grid = 224 // kernel.shape[-1] if mask is None else round(mask.shape[0] ** 0.5) * window
    model = SwinBackbone(
        version=2 if second else 1,
        image_size=grid * kernel.shape[-1],
        patch_size=kernel.shape[-1],
        embed_dim=kernel.shape[0],
        depths=depths,
        num_heads=heads,
        window_size=window,
        mlp_ratio=state[f"{first}mlp.fc1.weight"].shape[0] / kernel.shape[0],
    )
    weights = _timm_names(state, depths)
    if stages is not None:
        own = model.module.state_dict()
        weights = {k: v for k, v in weights.items() if k in own and not k.startswith("norm.")}
    return model, weights


def _window(state: dict[str, Tensor], block: str) -> int:
    table = state.get(f"{block}attn.relative_position_bias_table")
    if table is not None:
        return (round(table.shape[0] ** 0.5) + 1) // 2
    index = state.get(f"{block}attn.relative_position_index")
    return 14 if index is None else round(index.shape[0] ** 0.5)


def _timm_names(state: dict[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """timm merges patches at the start of a stage, and calls the bias network `cpb_mlp`."""
    renamed = {}
    for name, value in state.items():
        if _LEFT_OUT.search(name):
            continue
        new = re.sub(
            r"^layers\.(\d+)\.downsample\.",
            lambda found: f"layers.{int(found[1]) + 1}.downsample.",
            name.replace(".rpe_mlp.", ".cpb_mlp."),
        )
        shared = re.match(r"layers\.(\d+)\.rel_pos_bias\.(.*)$", new)
        if shared is None:
            renamed[new] = value
            continue
        for block in range(depths[int(shared[1])]):
            renamed[f"layers.{shared[1]}.blocks.{block}.attn.{shared[2]}"] = value
    return renamed
