"""Any transformer with a list of blocks as a backbone: forward hooks read the taps.

For models that `VisionTransformer` cannot represent, and for the user's own modules.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Backbone, Normalization, Tap, TapKind, scores
from vistill.models.fused_attention import AttentionCall, AttentionCalls
from vistill.models.taps import Draws, Images, Taps, Visible

Keep = Callable[[Tap, Any], None]


class _ReachedDeepestTapError(Exception):
    """Leaves a forward pass whose remaining blocks nobody needs."""


class ModuleBackbone(Backbone):
    """An adapter around any `nn.Module` whose blocks map tokens `[B, N, D]` to tokens `[B, N, D]`.

    Example:
        `ModuleBackbone(my_vit, blocks="layers", width=384, num_heads=6, qkv="attention.qkv")`

    Args:
        module: called with normalised images.
        blocks: dotted name of the list of blocks, or the names of all blocks in their order.
        width: channels of a token behind the last block.
        image_size: height and width that the module accepts.
        num_heads: attention heads of a block, or of each; 0 where it has none.
        num_prefix_tokens: class and register tokens in front of the patches.
        norm: dotted name of the final norm, or None for no `norm` tap.
        attention: name inside a block of the attention module (with output projection), or None;
            `attn*gamma_1` where a parameter of the block scales its output.
        attention_residual: name inside a block of the module, commonly the second norm, whose input
            is the attention branch behind its residual; or None.
        mlp: the same of the MLP.
        qkv: name inside a block of one linear layer giving queries, keys, values; or of the
            attention, whose call of the fused kernel is watched, which gives `cls_attention` too;
            or None.
        logits: whether the module returns class scores, or an object with `logits`.
        normalization: statistics of the module's inputs.
        origin: where its weights come from.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        blocks: str | Sequence[str],
        width: int,
        image_size: int | tuple[int, int] = 224,
        num_heads: int | Sequence[int] = 0,
        num_prefix_tokens: int = 1,
        norm: str | None = None,
        attention: str | None = None,
        attention_residual: str | None = None,
        mlp: str | None = None,
        qkv: str | None = None,
        logits: bool = False,
        normalization: Normalization | None = None,
        origin: str = "given as an object",
        build: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.width = width
        if isinstance(blocks, str):
            self._blocks = list(module.get_submodule(blocks).children())
        else:
            self._blocks = [module.get_submodule(name) for name in blocks]
        self.depth = len(self._blocks)
        self.num_heads = (
            (num_heads,) * self.depth if isinstance(num_heads, int) else tuple(num_heads)
        )
        self.num_prefix_tokens = num_prefix_tokens
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.normalization = normalization or Normalization()
        self.origin = origin
        self.build = build
        self.adapter = {
            "blocks": blocks if isinstance(blocks, str) else list(blocks),
            "width": width,
            "image_size": list(self.image_size),
            "num_heads": list(self.num_heads),
            "num_prefix_tokens": num_prefix_tokens,
            "norm": norm,
            "attention": attention,
            "attention_residual": attention_residual,
            "mlp": mlp,
            "qkv": qkv,
            "logits": logits,
        }
        named: dict[TapKind, str | None] = {
            "attention": attention,
            "attention_residual": attention_residual,
            "ffn": mlp,
            "qkv": qkv,
            "cls_attention": qkv,
        }
        if qkv is None or not num_prefix_tokens or self._projects(qkv):
            del named["cls_attention"]
        self._parts = {kind: name for kind, name in named.items() if name}
        self._norm = norm
        kinds: list[TapKind] = ["block", *self._parts]
        kinds += ["norm"] if norm else []
        self.taps = frozenset([*kinds, "logits"] if logits else kinds)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return self._blocks

    def _projects(self, qkv: str) -> bool:
        return isinstance(self._blocks[0].get_submodule(qkv), nn.Linear)

    # Tracing would leave out hooks that come and go, and the exception that ends the pass.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        if visible is not None:
            raise ValueError("a module behind hooks cannot be shown some of its tokens only")
        for tap in taps:
            whole = tap.kind in ("norm", "logits")
            if tap.kind not in self.taps or not (whole or 1 <= tap.block <= self.depth):
                raise ValueError(f"this module of {self.depth} blocks has no tap {tap}")
        return self._read(images, taps, leave_early=True)

    def forward(self, images: Tensor) -> Tensor:
        """All tokens after the final norm, or of the last block where there is none."""
        tap = Tap("norm" if self._norm else "block", self.depth)
        # To the end, because a pass that is left by an exception cannot be exported.
        return self._read(images, [tap], leave_early=False)[tap]

    def call(self, images: Tensor) -> Any:
        """A whole forward pass of the module."""
        return self.module(images)

    def _read(self, images: Tensor, taps: Sequence[Tap], *, leave_early: bool) -> dict[Tap, Tensor]:
        last = Tap("block", self.depth)
        wanted = {last if tap.kind == "norm" else tap for tap in taps}
        found: dict[Tap, Tensor] = {}

        def keep(tap: Tap, signal: Any) -> None:
            found[tap] = signal if tap.kind == "logits" else self._tokens(tap.kind, signal)
            if leave_early and len(found) == len(wanted):
                raise _ReachedDeepestTapError

        calls = AttentionCalls()
        handles = [handle for tap in wanted for handle in self._attach(tap, keep, calls)]
        try:
            with calls if self._watches(wanted) else nullcontext():
                self.call(images)
        except _ReachedDeepestTapError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        for tap in wanted - found.keys():
            raise UserError(
                f"{type(self.module).__name__} never comes by its {tap.kind!r} in block {tap.block}"
            )
        for tap in taps:
            if tap.kind == "norm":
                found[tap] = self.module.get_submodule(self._norm or "")(found[last])
        return {tap: found[tap] for tap in taps}

    def _watches(self, taps: set[Tap]) -> bool:
        kinds = {tap.kind for tap in taps}
        return "cls_attention" in kinds or (
            "qkv" in kinds and not self._projects(self._parts["qkv"])
        )

    def _attach(self, tap: Tap, keep: Keep, calls: AttentionCalls) -> list[Any]:
        """Hooks that give the signal to `keep`; `calls` is on in a pass that needs it."""
        if tap.kind == "logits":
            return [self.module.register_forward_hook(lambda _, __, out: keep(tap, scores(out)))]
        block = self._blocks[tap.block - 1]
        name, _, factor = self._parts.get(tap.kind, "").partition("*")
        part = block.get_submodule(name)
        if tap.kind == "attention_residual":
            return [part.register_forward_pre_hook(lambda _, inputs: keep(tap, inputs[0]))]
        if tap.kind == "cls_attention" or (tap.kind == "qkv" and not isinstance(part, nn.Linear)):
            listener = partial(_hear, tap, keep)
            return [
                part.register_forward_pre_hook(lambda *_: calls.listeners.append(listener)),
                part.register_forward_hook(lambda *_: calls.listeners.clear()),
            ]
        scale = block.get_parameter(factor) if factor else None

        def branch(_: nn.Module, __: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            keep(tap, output if scale is None else output * scale)

        return [part.register_forward_hook(branch)]

    def _tokens(self, kind: TapKind, tokens: Tensor) -> Tensor:
        if kind == "qkv" and tokens.dim() == 3:
            return tokens.unflatten(2, (3, -1))
        if tokens.dim() != (4 if kind == "qkv" else 3):
            raise UserError(
                f"the {kind!r} tap of {type(self.module).__name__} gives a tensor of "
                f"shape {tuple(tokens.shape)}, not tokens [B, N, D]"
            )
        return tokens


def part_of(block: nn.Module, *names: str) -> str | None:
    """The first of `names`, which may be `part*scale`, that the block has and that do something."""
    parts, scales = dict(block.named_children()), dict(block.named_parameters(recurse=False))
    for name in names:
        part, _, scale = name.partition("*")
        useful = part in parts and not isinstance(parts[part], nn.Identity)
        if useful and (not scale or scale in scales):
            return name
    return None


def _hear(tap: Tap, keep: Keep, call: AttentionCall) -> None:
    keep(tap, call.joined() if tap.kind == "qkv" else call.of_class_token())


@torch.no_grad()
def keep_true_taps(model: ModuleBackbone) -> int:
    """Take from `model` the taps that are not what their names say, and count its tokens.

    Seen in the first block on one random picture: Ĥ = F(0) + H and F(1) = Ĥ + H̃ (see `Tap`).

    Raises:
        UserError: the blocks do not map tokens to tokens.
    """
    was_training = model.training
    model.eval()
    like = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    size = (model.num_frames, *model.image_size) if model.num_frames > 1 else model.image_size
    images = torch.randn(1, 3, *size, generator=generator).to(like)
    entered: list[Tensor] = []
    handle = model.blocks[0].register_forward_pre_hook(
        lambda _, args, named: entered.append(args[0] if args else named["hidden_states"]),
        with_kwargs=True,
    )
    block = model.tap(images, [Tap("block", 1)])[Tap("block", 1)]
    handle.remove()
    before, signals = entered[0], {}
    for kind in model.taps - {"block", "norm", "logits"}:
        try:
            signals[kind] = model.tap(images, [Tap(kind, 1)])[Tap(kind, 1)]
        except UserError:
            continue
    residual = signals.get("attention_residual")
    attention, ffn = signals.get("attention"), signals.get("ffn")
    true = {"block", "norm", "logits"}
    if _adds_up(before, attention, residual):
        true |= {"attention", "attention_residual"}
    if _adds_up(residual, ffn, block):
        true |= {"ffn", "attention_residual"}
    if residual is None and attention is not None and _adds_up(before + attention, ffn, block):
        true |= {"attention", "ffn"}
    if "qkv" in signals and signals["qkv"].shape == (*block.shape[:2], 3, block.shape[2]):
        true |= {"qkv", "cls_attention"}
    model.taps &= true
    model.train(was_training)
    return block.shape[1]


def _adds_up(start: Tensor | None, branch: Tensor | None, end: Tensor | None) -> bool:
    if start is None or branch is None or end is None or start.shape != branch.shape:
        return False
    return bool((start + branch - end).abs().max() <= 1e-4 * end.abs().max())


def same_outputs(a: Backbone, b: Backbone, tolerance: float = 1e-4) -> bool:
    """Whether two backbones give the same tokens, and scores, for one random picture."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *a.image_size, generator=generator)
    taps = [Tap("block", a.depth)]
    if {"logits"} <= a.taps & b.taps:
        taps.append(Tap("logits", a.depth))
    with torch.no_grad():
        left, right = a.eval().tap(image, taps), b.eval().tap(image, taps)
    return all(bool((left[tap] - right[tap]).abs().max() < tolerance) for tap in taps)
