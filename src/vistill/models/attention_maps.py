"""Attention maps of any transformer, rebuilt from what its fused kernel is given, or heard where it
computes them itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vistill.models.backbone import Backbone, Tap
from vistill.models.fused_attention import AttentionCall, AttentionCalls

Hear = Callable[[int, Float[Tensor, "b m n n"]], None]
"""Is told the number of a block, from 1, and its map, rows of which are queries."""
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


def hear_attention(
    backbone: Backbone,
    images: Float[Tensor, "b 3 *size"],
    hear: Hear,
    taps: Sequence[Tap] = (),
) -> dict[Tap, Tensor]:
    """One pass in which every block's map is told as soon as it is there; what the taps give.

    A block that attends within windows gives the maps of all windows, one after the other. Of one
    that attends to pooled tokens, or by another arithmetic, nothing is told.

    Args:
        backbone: a transformer in eval mode, on the device of the images.
        images: normalised.
        hear: see `Hear`.
        taps: further signals; none: the pass goes to the end.
    """
    listening = _Listening(hear)
    blocks: Any = getattr(backbone, "blocks", ())
    handles = [
        handle
        for number, block in enumerate(blocks, start=1)
        if isinstance(block, nn.Module)
        for handle in (
            block.register_forward_pre_hook(lambda *_, number=number: listening.enter(number)),
            block.register_forward_hook(lambda *_: listening.enter(0)),
        )
    ]
    try:
        with torch.no_grad(), listening:
            if taps:
                return backbone.tap(images, taps)
            backbone(images)
            return {}
    finally:
        for handle in handles:
            handle.remove()


class _Listening(AttentionCalls):
    """Tells the first map of every block."""

    def __init__(self, hear: Hear) -> None:
        super().__init__()
        self.hear, self.block, self.heard = hear, 0, set[int]()
        self.listeners.append(self._call)

    def enter(self, number: int) -> None:
        self.block = number

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = super().__torch_function__(function, types, args, kwargs)
        if function in _SOFTMAX and self._asks(found):
            self._tell(found)
        return found

    def _asks(self, found: Any) -> bool:
        square = isinstance(found, Tensor) and found.dim() == 4
        return bool(square and found.shape[2] == found.shape[3] and self._waits)

    @property
    def _waits(self) -> bool:
        return self.block > 0 and self.block not in self.heard

    def _call(self, call: AttentionCall) -> None:
        same = call.query.dim() == 4 and call.query.shape[2] == call.key.shape[2]
        if same and self._waits:
            self._tell(call.probabilities())

    def _tell(self, maps: Tensor) -> None:
        self.heard.add(self.block)
        number, self.block = self.block, 0  # what is made of the map is not listened to
        self.hear(number, maps if maps.dtype == torch.float64 else maps.float())
