"""The maps of a backbone at several depths, from fine to coarse, for heads on dense tasks."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.models.backbone import Backbone, Tap
from vistill.models.grids import token_grid
from vistill.models.vit import VisionTransformer

_LEVELS = 4


class FeatureMaps:
    """Reads four maps of a backbone; no module, so that it is not registered twice.

    Of a plain transformer they are the patch tokens behind a third, a half, two thirds and all of
    its blocks (4, 6, 8 and 12 of 12), without the final norm (spec 9), all of one size; of a Swin
    those behind the last block of each stage; of a CNN the last map of each size below a quarter of
    the picture's side.

    Attributes:
        widths: channels of each.
        plain: whether all are of one size.

    Raises:
        UserError: it has no such maps.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.parts: list[nn.Module] = []
        self.blocks: list[int] = []
        if backbone.depth:
            self._find_blocks()
        else:
            self._find_parts()
        was_training = backbone.training
        with torch.no_grad():
            blank = next(backbone.parameters()).new_zeros(1, 3, *backbone.image_size)
            backbone.eval()
            maps = self(blank)
            backbone.train(was_training)
        self.widths = [found.shape[1] for found in maps]
        self.plain = len({found.shape[2:] for found in maps}) == 1 and len(maps) > 1

    def __call__(
        self,
        images: Float[Tensor, "b 3 h w"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> list[Float[Tensor, "b d h w"]]:
        """The maps of normalised images."""
        if not self.blocks:
            return self._of_parts(images)
        taps = [Tap("block", number) for number in self.blocks]
        found = self.backbone.tap(images, taps, drop_path_noise=drop_path_noise)
        prefix = self.backbone.num_prefix_tokens
        return [
            found[tap][:, prefix:].transpose(1, 2).unflatten(2, grid)
            for tap, grid in zip(taps, self.grids, strict=True)
        ]

    def _find_blocks(self) -> None:
        backbone, depth = self.backbone, self.backbone.depth
        if isinstance(backbone, VisionTransformer):
            shapes = [backbone.grid] * depth
        else:
            shapes = self._grids()
        if len(set(shapes)) == 1:
            self.blocks = [max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1)]
        else:
            last = {grid: number for number, grid in enumerate(shapes, start=1)}
            self.blocks = sorted(last.values())[-_LEVELS:]
        self.grids = [shapes[number - 1] for number in self.blocks]

    @torch.no_grad()
    def _grids(self) -> list[tuple[int, int]]:
        """Rows and columns of the patches behind every block."""
        backbone, was_training = self.backbone, self.backbone.training
        blank = next(backbone.parameters()).new_zeros(1, 3, *backbone.image_size)
        taps = [Tap("block", number) for number in range(1, backbone.depth + 1)]
        found = backbone.eval().tap(blank, taps)
        backbone.train(was_training)
        shapes = []
        for tap in taps:
            patches = found[tap].shape[1] - backbone.num_prefix_tokens
            grid = token_grid(patches, backbone.image_size)
            if grid is None:
                raise UserError(
                    f"the {patches} tokens of this backbone ({backbone.origin}) are no grid, so it "
                    "gives no maps"
                )
            shapes.append(grid)
        return shapes

    def _find_parts(self) -> None:
        """The last module that gives a map of each size."""
        last: dict[tuple[int, int], nn.Module] = {}
        height, width = self.backbone.image_size
        net: Any = self.backbone.runs

        def see(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and module is not net:
                size = (output.shape[2], output.shape[3])
                if 1 < size[0] <= height // 4 and 1 < size[1] <= width // 4:
                    last[size] = module

        handles = [part.register_forward_hook(see) for part in net.modules()]
        was_training = net.training
        try:
            with torch.no_grad():
                net.eval()(next(net.parameters()).new_zeros(1, 3, height, width))
        finally:
            net.train(was_training)
            for handle in handles:
                handle.remove()
        self.parts = list(last.values())[-_LEVELS:]
        if not self.parts:
            raise UserError(
                f"this backbone ({self.backbone.origin}) gives no maps at {height}×{width} pixels"
            )

    def _of_parts(self, images: Tensor) -> list[Tensor]:
        found: dict[int, Tensor] = {}

        def keep(number: int) -> Any:
            return lambda _, __, output: found.__setitem__(number, output)

        handles = [part.register_forward_hook(keep(n)) for n, part in enumerate(self.parts)]
        try:
            net: Any = self.backbone.runs
            net(images)
        finally:
            for handle in handles:
                handle.remove()
        return [found[number] for number in range(len(self.parts))]


def with_relative_bias(backbone: Backbone) -> VisionTransformer:
    """The same plain ViT with a relative position bias in every block and scales of its branches,
    which start without effect (spec 9).

    Raises:
        UserError: another backbone, or one that has such a bias.
    """
    if not isinstance(backbone, VisionTransformer) or backbone.tubelet_size is not None:
        raise UserError(
            f"segmentation.relative_bias is for plain ViTs of pictures, not for {backbone.origin}"
        )
    extra: dict[str, Any] = {"relative_position": "layer", "image_size": backbone.image_size}
    if backbone.layer_scale is None:
        extra["layer_scale"] = 1.0
    if backbone.relative_position is not None:
        raise UserError("segmentation.relative_bias is for a ViT without one")
    made = VisionTransformer(**{**backbone.build["args"], **extra})
    made.load_state_dict(backbone.state_dict(), strict=False)
    made.normalization, made.origin = backbone.normalization, backbone.origin
    made.untrained = backbone.untrained
    return made


def level_of(widths: Sequence[int]) -> int:
    """Which of the maps an auxiliary head looks at: the third of four, or the last but one."""
    return max(0, len(widths) - 2)
