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
from vistill.image_size import ImageSize, height_width
from vistill.models.backbone import POOLED, Backbone, Normalization, Tap, TapKind, scores
from vistill.models.drop_path import drawn, paths
from vistill.models.fused_attention import AttentionCall, AttentionCalls
from vistill.models.taps import Draws, Images, Run, Seen, Taps, Visible

Keep = Callable[[Tap, Any], None]
_FINAL: tuple[TapKind, ...] = ("block", "norm", "logits")


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
        class_token: whether the first of these is a class token.
        channels_last: whether blocks map maps `[B, H, W, D]`, which are read as tokens.
        norm: dotted name of the final norm, or None for no `norm` tap.
        pool_norm: dotted name of a norm behind the mean of the patch tokens, or None.
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
        image_size: ImageSize = 224,
        num_heads: int | Sequence[int] = 0,
        num_prefix_tokens: int = 1,
        class_token: bool = True,
        channels_last: bool = False,
        norm: str | None = None,
        pool_norm: str | None = None,
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
        self._class_token, self._channels_last = class_token, channels_last
        self.image_size = height_width(image_size)
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
        if qkv is None or not self.has_class_token or self._projects(qkv):
            del named["cls_attention"]
        self._parts = {kind: name for kind, name in named.items() if name}
        self._norm, self._pool_norm = norm, pool_norm
        kinds: list[TapKind] = ["block", *self._parts]
        kinds += ["norm"] if norm else []
        self.taps = frozenset([*kinds, "logits"] if logits else kinds)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return self._blocks

    @property
    def has_class_token(self) -> bool:
        """Whether the first of its tokens is a class token."""
        return self._class_token and self.num_prefix_tokens > 0

    def final_norm(self, tokens: Tensor) -> Tensor:
        """`tokens` behind the final norm; as they are where there is none."""
        return tokens if self._norm is None else self.module.get_submodule(self._norm)(tokens)

    def pool_norm(self, means: Tensor) -> Tensor:
        """Means of patch tokens behind the norm that the module has there, if any."""
        name = self._pool_norm
        return means if name is None else self.module.get_submodule(name)(means)

    def tokens_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the mean of its patch tokens, normed as it is, in one pass."""
        if self.pools_itself:
            last, pooled = self._last, Tap("pooled_act", 0)
            found = self._read(images, [last, pooled], leave_early=False)
            return found[last], found[pooled]
        tokens, mean = super().tokens_and_pooled(images)
        return tokens, self.pool_norm(mean)

    @property
    def _last(self) -> Tap:
        return Tap("norm" if "norm" in self.taps else "block", self.depth)

    def _projects(self, qkv: str) -> bool:
        return isinstance(self._blocks[0].get_submodule(qkv), nn.Linear)

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        read: Any = self._tap
        if torch.compiler.is_compiling():
            # Tracing would leave out hooks that come and go, and the exception that ends the pass.
            # No decorator, which loads the compiler: a second of every start.
            read = torch.compiler.disable(read)
        return read(images, taps, visible, drop_path_noise)

    def _tap(
        self, images: Images, taps: Taps, visible: Visible, drop_path_noise: Draws
    ) -> dict[Tap, Tensor]:
        if visible is not None:
            raise ValueError("a module behind hooks cannot be shown some of its tokens only")
        for tap in taps:
            whole = tap.kind in ("norm", "logits", *POOLED)
            if tap.kind not in self.taps or not (whole or 1 <= tap.block <= self.depth):
                raise ValueError(f"this module of {self.depth} blocks has no tap {tap}")
        with drawn(self.module, drop_path_noise):
            return self._read(images, taps, leave_early=True)

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`: one for every module that drops branches."""
        return len(paths(self.module))

    def forward(self, images: Tensor) -> Tensor:
        """All tokens after the final norm, or of the last block where there is none."""
        # To the end, because a pass that is left by an exception cannot be exported.
        return self._read(images, [self._last], leave_early=False)[self._last]

    def call(self, images: Tensor) -> Any:
        """A whole forward pass of the module."""
        return self.module(images)

    def _read(self, images: Tensor, taps: Sequence[Tap], *, leave_early: bool) -> dict[Tap, Tensor]:
        last = Tap("block", self.depth)
        pooled = [tap for tap in taps if tap.kind in POOLED]
        if pooled and any(tap.kind == "logits" for tap in taps):  # two ways through the module
            others = [tap for tap in taps if tap not in pooled]
            return self._read(images, pooled, leave_early=False) | self._read(
                images, others, leave_early=leave_early
            )
        wanted = {last if tap.kind == "norm" else tap for tap in taps if tap not in pooled}
        found: dict[Tap, Tensor] = {}

        def keep(tap: Tap, signal: Any) -> None:
            found[tap] = signal if tap.kind == "logits" else self._tokens(tap.kind, signal)
            if leave_early and not pooled and len(found) == len(wanted):
                raise _ReachedDeepestTapError

        calls = AttentionCalls()
        handles = [handle for tap in wanted for handle in self._attach(tap, keep, calls)]
        try:
            with calls if self._watches(wanted) else nullcontext():
                if pooled:
                    found |= dict.fromkeys(pooled, self.own_feature(images))
                else:
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
                found[tap] = self.final_norm(found[last])
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
            return _listen_inside(part, partial(_hear, tap, keep), calls)
        scale = block.get_parameter(factor) if factor else None

        def branch(_: nn.Module, __: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            keep(tap, output if scale is None else output * scale)

        return [part.register_forward_hook(branch)]

    def watch(self, images: Tensor, run: Run) -> Seen:
        """One whole pass by `run`, with all signals of one of each kind of blocks.

        Raises:
            UserError: a block gives no tokens, or does so more often than once.
        """
        kinds: dict[Any, int] = {}
        for number, block in enumerate(self._blocks, start=1):
            shapes = tuple(parameter.shape for parameter in block.parameters())
            kinds.setdefault((type(block), shapes), number)
        found: dict[Tap, list[Tensor]] = {}
        entered: dict[int, Tensor] = {}
        heads: dict[int, list[int]] = {}
        normed: list[Tensor] = []

        def keep(tap: Tap, signal: Any) -> None:
            try:
                signal = self._tokens(tap.kind, signal)
            except UserError:
                if tap.kind == "block":
                    raise
                return
            found.setdefault(tap, []).append(signal)

        def enter(number: int, _: nn.Module, given: Any, named: dict[str, Any]) -> None:
            first = next(v for v in (*given, *named.values()) if isinstance(v, Tensor))
            entered[number] = self._tokens("block", first)

        calls, handles = AttentionCalls(), []
        for number, block in enumerate(self._blocks, start=1):
            handles += self._attach(Tap("block", number), keep, calls)
            handles += _listen_inside(block, partial(_count_heads, heads, number), calls)
        for number in kinds.values():
            block = self._blocks[number - 1]
            handles.append(
                block.register_forward_pre_hook(partial(enter, number), with_kwargs=True)
            )
            for kind in self._parts:
                handles += self._attach(Tap(kind, number), keep, calls)
        if self._norm is not None:
            norm = self.module.get_submodule(self._norm)
            handles.append(norm.register_forward_hook(lambda _, __, out: normed.append(out)))
        try:
            with calls:
                own = run(images)
        finally:
            for handle in handles:
                handle.remove()
        for number in range(1, self.depth + 1):
            times = len(found.get(Tap("block", number), ()))
            if times != 1:
                raise UserError(f"it runs block {number} {times} times in a pass, not once")
        return Seen(
            {tap: signals[0] for tap, signals in found.items() if len(signals) == 1},
            entered,
            {number: heard[0] for number, heard in heads.items() if len(heard) == 1},
            normed[0] if len(normed) == 1 else None,
            own,
        )

    def _tokens(self, kind: TapKind, tokens: Tensor) -> Tensor:
        if self._channels_last and kind != "qkv" and tokens.dim() == 4:
            tokens = tokens.flatten(1, 2)
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


def _listen_inside(
    part: nn.Module, listener: Callable[[AttentionCall], None], calls: AttentionCalls
) -> list[Any]:
    return [
        part.register_forward_pre_hook(lambda *_: calls.listeners.append(listener)),
        part.register_forward_hook(lambda *_: calls.listeners.remove(listener)),
    ]


def _count_heads(heads: dict[int, list[int]], number: int, call: AttentionCall) -> None:
    if call.query.dim() > 3:  # otherwise heads and samples are one
        heads.setdefault(number, []).append(call.query.shape[-3])


def _hear(tap: Tap, keep: Keep, call: AttentionCall) -> None:
    if tap.kind == "cls_attention":
        keep(tap, call.of_class_token())
    elif call.query.dim() == 4 and call.query.shape == call.key.shape == call.value.shape:
        keep(tap, call.joined())


@torch.no_grad()
def same_outputs(
    plain: Backbone,
    hooked: ModuleBackbone,
    run: Run | None = None,
    tolerance: float = 1e-4,
) -> bool:
    """Whether our own model gives the tokens, and scores, of a module for one random picture.

    Args:
        plain: our own, of the module's weights.
        hooked: the module.
        run: a whole pass of the library that gives its final `tokens`, to be compared as well.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *plain.image_size, generator=generator)
    last, norm, logits = (Tap(kind, plain.depth) for kind in _FINAL)
    scored = {"logits"} <= plain.taps & hooked.taps
    ours = plain.eval().tap(image, [last, norm, *([logits] if scored else [])])
    hooked.eval()
    if run is None:
        theirs = hooked.tap(image, [last, *([logits] if scored else [])])
    else:
        seen = hooked.watch(image, run)
        assert seen.own.tokens is not None
        theirs = {last: seen.signals[last], norm: seen.own.tokens}
        if scored:
            theirs |= hooked.tap(image, [logits])
    return all(
        ours[tap].shape == theirs[tap].shape
        and bool((ours[tap] - theirs[tap]).abs().max() < tolerance)
        for tap in theirs
    )
