"""Which patch tokens a side sees, as index sets (boolean masks would cost a host sync)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Mask(NamedTuple):
    """A rectangular choice of visible tokens; each set in the order of its noise.

    Attributes:
        visible: int64 `[B, K]`, patches that are kept.
        hidden: int64 `[B, L - K]`, the others.
    """

    visible: Int[Tensor, "b k"]
    hidden: Int[Tensor, "b h"]


def random_mask(noise: Float[Tensor, "b l"], mask_ratio: float) -> Mask:
    """Keep the `int(L * (1 - mask_ratio))` tokens of smallest noise (MAE, section 3; spec 2.2).

    Raises:
        ValueError: if no token would be left.
    """
    length = noise.shape[1]
    keep = int(length * (1 - mask_ratio))
    if keep < 1:
        raise ValueError(f"a mask ratio of {mask_ratio} leaves none of {length} patches visible")
    shuffle = torch.argsort(noise, dim=1, stable=True)
    return Mask(shuffle[:, :keep], shuffle[:, keep:])


class NestedMask(NamedTuple):
    """What two sides of unequal sight see of every sample; each set in ascending order.

    Attributes:
        visible: int64 `[B, V]`, patches that both sides see.
        extra: int64 `[B, E]`, patches that the side with the lower mask ratio sees besides.
        hidden: int64 `[B, L - V]`, all but `visible`: what the side with the higher ratio misses.
    """

    visible: Int[Tensor, "b v"]
    extra: Int[Tensor, "b e"]
    hidden: Int[Tensor, "b h"]

    @property
    def seen(self) -> Int[Tensor, "b s"]:
        """`visible`, then `extra`."""
        return torch.cat([self.visible, self.extra], dim=1)


def tube_visible(length: int, mask_ratio: float) -> int:
    """How many of `length` positions VideoMAE and AMD leave visible (spec amd 4)."""
    return length - int(mask_ratio * length)


def picture_visible(length: int, mask_ratio: float) -> int:
    """How many of `length` patches MAE leaves visible (spec amd 11.5)."""
    return int(length * (1 - mask_ratio))


def nested_mask(
    noise: Float[Tensor, "b n"], visible: int, seen: int | None = None, slots: int = 1
) -> NestedMask:
    """Two nested sets of visible patches from one noise (AMD, section 3; spec amd 4, 11.5).

    Of every row the `visible` positions of smallest noise are seen by both sides and those up to
    rank `seen` by one of them, so the first set is always part of the second. A permutation is a
    noise too: the published masks are those of the permutation that shuffled them.

    Args:
        noise: one number per position of a time slot for a tube mask, per patch for a random one.
        visible: positions that both sides see.
        seen: positions that the side with the lower mask ratio sees; None: the same.
        slots: time slots over which the choice is repeated (a tube mask); 1 for a random mask.

    Raises:
        ValueError: no patch would be visible, or the sets would not be nested.
    """
    positions = noise.shape[1]
    seen = visible if seen is None else seen
    if not 1 <= visible <= seen <= positions:
        raise ValueError(f"cannot nest {visible} visible patches in {seen} of {positions}")
    order = torch.argsort(noise, dim=1, stable=True)

    def ascending(chosen: Int[Tensor, "b k"]) -> Int[Tensor, "b slots_k"]:
        start = torch.arange(slots, device=noise.device)[:, None] * positions
        return (chosen.sort(dim=1).values[:, None] + start).flatten(1)

    return NestedMask(
        ascending(order[:, :visible]),
        ascending(order[:, visible:seen]),
        ascending(order[:, visible:]),
    )


class MaskSizes(NamedTuple):
    """How much two sides see of every sample, before anything is drawn.

    Attributes:
        positions: numbers of noise per sample.
        visible: positions that both sides see.
        seen: positions that the side with the lower mask ratio sees.
        slots: time slots over which the choice is repeated.
    """

    positions: int
    visible: int
    seen: int
    slots: int

    def mask(self, noise: Float[Tensor, "b n"]) -> NestedMask:
        """The choice that `noise` makes, one row of `positions` per sample."""
        return nested_mask(noise, self.visible, self.seen, self.slots)


def clip_mask_sizes(
    slots: int, positions: int, mask_ratio: float, seen_ratio: float | None = None, *, tube: bool
) -> MaskSizes:
    """What is seen of a clip with `slots` time slots of `positions` tokens (spec amd 4).

    Args:
        mask_ratio: share that the student does not see.
        seen_ratio: share that the teacher does not see; None: there is none.
        tube: repeat one choice over all slots; otherwise choose among all tokens.
    """
    drawn = positions if tube else slots * positions
    visible = tube_visible(drawn, mask_ratio)
    seen = visible if seen_ratio is None else tube_visible(drawn, seen_ratio)
    return MaskSizes(drawn, visible, seen, slots if tube else 1)


def picture_mask_sizes(positions: int, mask_ratio: float, seen_ratio: float) -> MaskSizes:
    """What is seen of a picture with `positions` patches (spec amd 11.5)."""
    visible = picture_visible(positions, mask_ratio)
    return MaskSizes(positions, visible, max(visible, picture_visible(positions, seen_ratio)), 1)


def gather_tokens(
    tokens: Float[Tensor, "b n d"], index: Int[Tensor, "b k"]
) -> Float[Tensor, "b k d"]:
    """Rows `index` of every sample's tokens."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def bias_of_visible(
    bias: Float[Tensor, "m n n"], visible: Int[Tensor, "b k"], num_prefix: int
) -> Float[Tensor, "b m v v"]:
    """Attention bias between the prefix and the visible patches of every sample."""
    prefix = torch.arange(num_prefix, device=visible.device).expand(len(visible), -1)
    kept = torch.cat([prefix, visible + num_prefix], dim=1)
    return bias[:, kept[:, :, None], kept[:, None, :]].transpose(0, 1)
