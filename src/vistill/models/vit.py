"""The plain vision transformer, for pictures and clips, under timm's parameter names (spec 1)."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vistill.image_size import ImageSize, height_width
from vistill.models.backbone import Backbone, Normalization, Tap, TapKind
from vistill.models.initialization import truncated_normal, xavier
from vistill.models.layers import (
    LAYER_NORM_EPS,
    Activation,
    Block,
    BlockParts,
    PatchEmbed,
    QKVBias,
    drop_path_keep,
)
from vistill.models.positions import (
    PositionRule,
    resize_clip_table,
    resize_position_table,
    sincos_1d,
    sincos_2d,
)
from vistill.models.relative_bias import RelativePositionBias
from vistill.models.taps import Draws, Images, Shape, Taps, Visible
from vistill.nearest import no_split
from vistill.tokens.masks import bias_of_visible
from vistill.tokens.patches import require_whole_tokens

TAPS: frozenset[TapKind] = frozenset(
    ("block", "attention", "attention_residual", "ffn", "qkv", "cls_attention", "norm")
)


_STEM = ("cls_token", "pos_embed", "patch_embed", "mask_token", "reg_token")


def vit_layer(name: str, depth: int) -> int:
    """Layer of a ViT's parameter: 0 stem and tokens, k block k (from 1), depth + 1 the rest."""
    head, _, rest = name.partition(".")
    if head in _STEM:
        return 0
    return int(rest.partition(".")[0]) + 1 if head == "blocks" else depth + 1


class VisionTransformer(Backbone):
    """A ViT whose forward returns taps, stops at the deepest one, and sees only visible tokens.

    Args:
        image_size: side of the square input, or (height, width).
        patch_size: side of a patch.
        embed_dim: token width D.
        depth: number of blocks.
        num_heads: heads of every block.
        mlp_ratio: hidden width of the MLP over D.
        class_token: whether a class token leads the sequence.
        position: absolute positions: `sincos` (fixed), `learned`, or `none`.
        position_rule: how the table of absolute positions is resampled for another size.
        relative_position: learned bias of the attention logits, `shared` by all blocks or one per
            `layer`; None for none.
        layer_scale: initial residual scale, or None for none.
        tubelet_size: frames per token; None for pictures.
        num_frames: frames per clip, a multiple of `tubelet_size`; 1 for pictures.
        table_grid: slots, rows and columns of a clip's fixed table, which is interpolated for other
            sizes, as UMT fine-tunes; None: every size has a table of its own.
        qkv_bias: biases of queries, keys and values; BEiT's keys have none (`no_key`).
        qk_scale: factor of the products of queries and keys; None: (channels of a head)^-0.5.
        distillation_token: DeiT's second token, behind the class token.
        pre_norm: CLIP's norm in front of the first block; its patch embedding has no bias.
        activation: exact GELU, or CLIP's `quick_gelu`.
        norm_eps: of every layer norm.
        initialization: `xavier` (MAE), or `truncated` normal (feature distillation).
        num_classes: outputs of a classifier behind the final norm, for the `logits` tap; 0: none.
        normalization: statistics its inputs are normalised with.
    """

    def __init__(
        self,
        *,
        image_size: ImageSize = 224,
        patch_size: int = 16,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        class_token: bool = True,
        position: Literal["sincos", "learned", "none"] = "sincos",
        position_rule: PositionRule = "bicubic",
        layer_scale: float | None = None,
        tubelet_size: int | None = None,
        num_frames: int = 1,
        table_grid: Sequence[int] | None = None,
        relative_position: Literal["shared", "layer"] | None = None,
        qkv_bias: QKVBias = "all",
        qk_scale: float | None = None,
        distillation_token: bool = False,
        pre_norm: bool = False,
        activation: Activation = "gelu",
        norm_eps: float = LAYER_NORM_EPS,
        initialization: Literal["xavier", "truncated"] = "xavier",
        num_classes: int = 0,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.width, self.depth = embed_dim, depth
        self.patch_size, self.tubelet_size, self.num_frames = patch_size, tubelet_size, num_frames
        self.image_size = height_width(image_size)
        require_whole_tokens(self.image_size, patch_size, num_frames, tubelet_size)
        self.mlp_ratio, self.position, self.layer_scale = mlp_ratio, position, layer_scale
        self.position_rule = position_rule
        self.table_grid = None if table_grid is None else tuple(table_grid)
        self.relative_position, self.qkv_bias = relative_position, qkv_bias
        self.qk_scale = qk_scale
        self.pre_norm, self.activation, self.norm_eps = pre_norm, activation, norm_eps
        self.normalization = normalization or Normalization()
        if distillation_token and not class_token:
            raise ValueError("a distillation token needs a class token in front of it")
        self.num_prefix_tokens = int(class_token) + int(distillation_token)
        self.taps = TAPS if class_token else TAPS - {"cls_attention"}
        self.num_classes = num_classes
        if num_classes:
            self.taps |= {"logits"}
        self.origin, self.untrained = "random", True
        self.activation_checkpointing = False
        self.drop_path_rates = [0.0] * depth

        self.patch_embed = PatchEmbed(patch_size, embed_dim, tubelet_size, bias=not pre_norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if distillation_token else None
        self.pos_embed = self._position_table()
        self.norm_pre = nn.LayerNorm(embed_dim, eps=norm_eps) if pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                **self.parts._asdict(),
                activation=activation,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        if num_classes and distillation_token:
            self.head_dist = nn.Linear(embed_dim, num_classes)
        self.rel_pos_bias = self._bias_table() if relative_position == "shared" else None
        if relative_position == "layer":
            for block in self._typed_blocks:
                block.attn.rel_pos_bias = self._bias_table()
        (truncated_normal if initialization == "truncated" else xavier)(self)

    @property
    def _typed_blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    @property
    def parts(self) -> BlockParts:
        """What its blocks are made of, and with them those of a decoder or generator beside it."""
        return BlockParts(self.mlp_ratio, self.layer_scale, self.qkv_bias, self.qk_scale)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def slots(self) -> int:
        """Time slots of patches; 1 for pictures."""
        return self.num_frames // (self.tubelet_size or 1)

    @property
    def num_patches(self) -> int:
        """Patch tokens L of a full input."""
        return self.slots * self.grid[0] * self.grid[1]

    def parameter_layers(self) -> dict[str, int]:
        """0 stem and tokens, k block k (from 1), `depth + 1` the rest (spec 7)."""
        return {name: vit_layer(name, self.depth) for name, _ in self.named_parameters()}

    def shape(self, tap: Tap) -> Shape:
        """What `tap` gives, which needs no look."""
        if tap.kind == "logits":
            return super().shape(tap)
        return Shape(self.num_prefix_tokens, self.num_patches, self.grid, self.width)

    @property
    def num_heads(self) -> tuple[int, ...]:  # type: ignore[override]
        """Attention heads of each block."""
        return tuple(block.attn.num_heads for block in self._typed_blocks)

    @property
    def build(self) -> dict[str, Any]:  # type: ignore[override]
        """What `vistill.models.build` needs to make this architecture again."""
        return {
            "name": "vit",
            "args": {
                "image_size": list(self.image_size),
                "patch_size": self.patch_size,
                "embed_dim": self.width,
                "depth": self.depth,
                "num_heads": self.num_heads[0],
                "mlp_ratio": self.mlp_ratio,
                "class_token": bool(self.num_prefix_tokens),
                "position": self.position,
                "position_rule": self.position_rule,
                "layer_scale": self.layer_scale,
                "tubelet_size": self.tubelet_size,
                "num_frames": self.num_frames,
                "table_grid": None if self.table_grid is None else list(self.table_grid),
                "relative_position": self.relative_position,
                "qkv_bias": self.qkv_bias,
                "qk_scale": self.qk_scale,
                "distillation_token": self.dist_token is not None,
                "pre_norm": self.pre_norm,
                "activation": self.activation,
                "norm_eps": self.norm_eps,
                "num_classes": self.num_classes,
            },
        }

    def _bias_table(self) -> RelativePositionBias:
        if self.tubelet_size is not None:
            raise ValueError("relative positions are for pictures")
        return RelativePositionBias(self.grid, self.num_heads[0], self.num_prefix_tokens)

    def _position_table(self) -> nn.Parameter | None:
        if self.position == "none":
            return None
        if self.position == "learned":
            learned = torch.zeros(1, self.num_prefix_tokens + self.num_patches, self.width)
            return nn.Parameter(nn.init.trunc_normal_(learned, std=0.02))
        if self.tubelet_size is None:
            fixed = sincos_2d(self.width, self.grid, self.num_prefix_tokens)
        else:
            own = (self.slots, *self.grid)
            slots, rows, columns = self.table_grid or own
            fixed = sincos_1d(self.width, self.num_prefix_tokens + slots * rows * columns)
            fixed = resize_clip_table(fixed, self.num_prefix_tokens, (slots, rows, columns), own)
        return nn.Parameter(fixed.float(), requires_grad=False)

    def set_drop_path(self, rates: float | Sequence[float]) -> None:
        """Stochastic depth: one rate for all blocks, or one per block."""
        per_block = [rates] * self.depth if isinstance(rates, int | float) else list(rates)
        if len(per_block) != self.depth:
            raise ValueError(f"{len(per_block)} drop path rates for {self.depth} blocks")
        self.drop_path_rates = [float(rate) for rate in per_block]

    def unify_heads(self, num_heads: int) -> None:
        """Split every block into `num_heads`; the weights stay as they are."""
        if self.width % num_heads:
            raise ValueError(no_split(self.width, num_heads))
        if self.relative_position is not None and (num_heads,) * self.depth != self.num_heads:
            raise ValueError("relative position tables have one column per head")
        for block in self._typed_blocks:
            block.attn.num_heads = num_heads

    def unshare_relative_position(self) -> None:
        """Give every block its own copy of the shared bias table, as fine-tuning does (spec fd)."""
        if self.rel_pos_bias is None:
            return
        for block in self._typed_blocks:
            block.attn.rel_pos_bias = copy.deepcopy(self.rel_pos_bias)
        self.rel_pos_bias, self.relative_position = None, "layer"

    def resize(self, image_size: ImageSize, num_frames: int | None = None) -> None:
        """Accept another input size: position and bias tables are resized (spec 1; spec fd 5).

        A clip's fixed table is made anew for the new number of tokens (spec amd 3), or interpolated
        where there is a `table_grid`; a learned one is interpolated (spec umt 7).

        Args:
            image_size: side of the square input, or (height, width).
            num_frames: frames per clip; None: as before.

        Raises:
            ValueError: the size is no multiple of the patch, or the tables cannot be resized.
        """
        new = height_width(image_size)
        if self.tubelet_size is not None:
            self._resize_clip(new, num_frames or self.num_frames)
            return
        require_whole_tokens(new, self.patch_size)
        old_grid, self.image_size = self.grid, new
        if self.pos_embed is not None:
            with torch.no_grad():
                table = resize_position_table(
                    self.pos_embed,
                    self.num_prefix_tokens,
                    old_grid,
                    self.grid,
                    self.position_rule,
                )
            self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)
        if self.rel_pos_bias is not None:
            self.rel_pos_bias = self.rel_pos_bias.resized(self.grid)
        for block in self._typed_blocks:
            if block.attn.rel_pos_bias is not None:
                block.attn.rel_pos_bias = block.attn.rel_pos_bias.resized(self.grid)

    def _resize_clip(self, size: tuple[int, int], num_frames: int) -> None:
        require_whole_tokens(size, self.patch_size, num_frames, self.tubelet_size)
        device = self.patch_embed.proj.weight.device
        old = (self.slots, *self.grid)
        self.image_size, self.num_frames = size, num_frames
        if self.position == "learned":
            assert self.pos_embed is not None
            learned, new = self.pos_embed, (self.slots, *self.grid)
            table = resize_clip_table(learned.detach(), self.num_prefix_tokens, old, new)
            self.pos_embed = nn.Parameter(table, learned.requires_grad)
            return
        fixed = self._position_table()
        self.pos_embed = None if fixed is None else nn.Parameter(fixed.to(device), False)

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`: two for every block with a non-zero rate."""
        return 2 * sum(rate > 0 for rate in self.drop_path_rates)

    def embed(
        self, images: Float[Tensor, "b 3 *size"], visible: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Tokens in front of the first block: patches and prefix, positions added."""
        x = self.patch_embed(images, visible)
        prefix = self.num_prefix_tokens
        if self.pos_embed is not None:
            patch_table = self.pos_embed[0, prefix:].to(x.dtype)
            x = x + (patch_table if visible is None else patch_table[visible])
        if self.cls_token is not None:
            token: Tensor = self.cls_token
            if self.dist_token is not None:
                token = torch.cat([token, self.dist_token], dim=1)
            if self.pos_embed is not None:
                token = token + self.pos_embed[:, :prefix]
            x = torch.cat([token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        return self.norm_pre(x)

    def _bias(
        self, table: RelativePositionBias | None, visible: Int[Tensor, "b k"] | None
    ) -> Float[Tensor, "*b m n n"] | None:
        if table is None:
            return None
        bias: Tensor = table()
        if visible is None:
            return bias
        return bias_of_visible(bias, visible, self.num_prefix_tokens)

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        wanted: dict[int, dict[TapKind, Tap]] = defaultdict(dict)
        for tap in taps:
            if tap.kind not in self.taps or not 1 <= tap.block <= self.depth:
                raise ValueError(f"this ViT of depth {self.depth} has no tap {tap}")
            if tap.kind in ("norm", "logits"):
                wanted[self.depth]["block"] = Tap("block", self.depth)
            else:
                wanted[tap.block][tap.kind] = tap
        deepest = max(wanted)

        x = self.embed(images, visible)
        shared = self._bias(self.rel_pos_bias, visible)
        draws = self._drop_path_draws(x, drop_path_noise)
        found: dict[Tap, Tensor] = {}
        for number, block in enumerate(self._typed_blocks, start=1):
            bias = shared if shared is not None else self._bias(block.attn.rel_pos_bias, visible)
            kinds = tuple(wanted[number]) if number in wanted else ()
            rate = self.drop_path_rates[number - 1] if self.training else 0.0
            keep = None
            if rate > 0:
                keep = (drop_path_keep(next(draws), rate, x), drop_path_keep(next(draws), rate, x))
            arguments = (x, kinds, number == deepest, bias, keep)
            if self.activation_checkpointing and self.training:
                x, signals = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, signals = block(*arguments)
            for kind in kinds:
                found[Tap(kind, number)] = signals[kind]
            if number == deepest:
                break
        for tap in taps:
            if tap.kind == "norm":
                found[tap] = self.norm(found[Tap("block", self.depth)])
            elif tap.kind == "logits":
                found[tap] = self._classify(self.norm(found[Tap("block", self.depth)]))
        return {tap: found[tap] for tap in taps}

    def finish_block(
        self, number: int, x: Tensor, qkv: Tensor, rows: Int[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b k d"]:
        """What a block gives, of some of its tokens or all, without drop path.

        Args:
            number: of the block, counted from 1.
            x: `[B, N, D]`, all tokens in front of it.
            qkv: `[B, N, 3, D]`, what its `qkv` tap gave.
            rows: the tokens that are wanted, prefix counted in; they attend to all.
        """
        block = self._typed_blocks[number - 1]
        shared = self._bias(self.rel_pos_bias, None)
        bias = shared if shared is not None else self._bias(block.attn.rel_pos_bias, None)
        return block.finish(x, qkv, bias, rows)

    def _classify(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b c"]:
        """Scores of the class token (DeiT: and of the distillation token), or of the mean patch."""
        if self.dist_token is not None:
            return (self.head(tokens[:, 0]) + self.head_dist(tokens[:, 1])) / 2
        return self.head(tokens.mean(dim=1) if self.cls_token is None else tokens[:, 0])

    def _drop_path_draws(self, x: Tensor, noise: Tensor | None) -> Any:
        if noise is None and self.training and self.num_drop_path_draws:
            noise = torch.rand(self.num_drop_path_draws, x.shape[0], device=x.device)
        return iter(()) if noise is None else iter(noise)
