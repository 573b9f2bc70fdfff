"""Any transformer with a list of blocks as a backbone: forward hooks read the taps.

For models that `VisionTransformer` cannot represent, and for the user's own modules.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Backbone, Normalization, Tap, TapKind
from vistill.models.taps import Draws, Images, Taps, Visible


class _ReachedDeepestTapError(Exception):
    """Leaves a forward pass whose remaining blocks nobody needs."""


class ModuleBackbone(Backbone):
    """An adapter around any `nn.Module` whose blocks map tokens `[B, N, D]` to tokens `[B, N, D]`.

    Example:
        `ModuleBackbone(my_vit, blocks="layers", width=384, num_heads=6, qkv="attention.qkv")`

    Args:
        module: called with normalised images.
        blocks: dotted name of the list of blocks.
        width: channels of a token.
        image_size: height and width that the module accepts.
        num_heads: attention heads of a block; 0 where it has none.
        num_prefix_tokens: class and register tokens in front of the patches.
        norm: dotted name of the final norm, or None for no `norm` tap.
        attention: name inside a block of the attention module (with output projection), or None.
        mlp: name inside a block of the MLP, or None.
        qkv: name inside a block of one linear layer giving queries, keys, values, or None.
        normalization: statistics of the module's inputs.
        origin: where its weights come from.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        blocks: str,
        width: int,
        image_size: int | tuple[int, int] = 224,
        num_heads: int = 0,
        num_prefix_tokens: int = 1,
        norm: str | None = None,
        attention: str | None = None,
        mlp: str | None = None,
        qkv: str | None = None,
        normalization: Normalization | None = None,
        origin: str = "given as an object",
        build: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.width = width
        self._blocks = list(module.get_submodule(blocks).children())
        self.depth = len(self._blocks)
        self.num_heads = (num_heads,) * self.depth
        self.num_prefix_tokens = num_prefix_tokens
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        self.normalization = normalization or Normalization()
        self.origin = origin
        self.build = build
        self._parts: dict[TapKind, str | None] = {"attention": attention, "ffn": mlp, "qkv": qkv}
        self._norm = norm
        kinds: list[TapKind] = ["block", *(k for k, name in self._parts.items() if name)]
        self.taps = frozenset((*kinds, "norm") if norm else kinds)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks, first to last."""
        return self._blocks

    def _module_of(self, tap: Tap) -> nn.Module:
        if tap.kind == "norm":
            return self.module.get_submodule(self._norm or "")
        block = self._blocks[tap.block - 1]
        name = self._parts.get(tap.kind)
        return block if name is None else block.get_submodule(name)

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        if visible is not None:
            raise ValueError("a module behind hooks cannot be shown some of its tokens only")
        return self._read(images, taps, leave_early=True)

    def forward(self, images: Tensor) -> Tensor:
        tap = Tap("norm", self.depth)
        # To the end, because a pass that is left by an exception cannot be exported.
        return self._read(images, [tap], leave_early=False)[tap]

    def _read(self, images: Tensor, taps: Sequence[Tap], *, leave_early: bool) -> dict[Tap, Tensor]:
        found: dict[Tap, Tensor] = {}

        def keep(tap: Tap) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                tokens = output[0] if isinstance(output, tuple) else output
                if tokens.dim() != 3:
                    raise UserError(
                        f"the {tap.kind!r} tap of {type(self.module).__name__} gives a tensor of "
                        f"shape {tuple(tokens.shape)}, not tokens [B, N, D]"
                    )
                found[tap] = tokens.unflatten(2, (3, -1)) if tap.kind == "qkv" else tokens
                if leave_early and len(found) == len(set(taps)):
                    raise _ReachedDeepestTapError

            return hook

        handles = [self._module_of(tap).register_forward_hook(keep(tap)) for tap in set(taps)]
        try:
            self.module(images)
        except _ReachedDeepestTapError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found


def same_outputs(a: Backbone, b: Backbone, tolerance: float = 1e-4) -> bool:
    """Whether two backbones give the same tokens for one random picture."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *a.image_size, generator=generator)
    tap = Tap("block", a.depth)
    with torch.no_grad():
        difference = a.eval().tap(image, [tap])[tap] - b.eval().tap(image, [tap])[tap]
    return bool(difference.abs().max() < tolerance)
