"""A backbone with a head that tells the class of every pixel, trained as a method (spec 9; spec
kdep 11.2)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.segmentation import SegmentationConfig
from vistill.errors import UserError
from vistill.evaluation.classifier import head_dropout, let_learn, prepare_backbone
from vistill.evaluation.segmentation.crops import IGNORED
from vistill.heads.uper import FCNHead, LinearHead, SimplePyramid, UperHead, WidePyramid
from vistill.methods.base import Method, weighted
from vistill.methods.side import drop_path_noise
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Backbone
from vistill.models.maps import FeatureMaps, level_of, with_relative_bias
from vistill.random import Stream
from vistill.training.optim import Group, layer_decay_groups

_DROPOUT = 0.1
_AUXILIARY = 256


class Segmenter(Method):
    """Backbone, pyramid, heads; its forward is the training loss of a batch whose fourth channel
    holds the masks.

    Args:
        backbone: becomes part of the segmenter and is trained.
        num_classes: classes of a pixel.
        options: head and weight of the auxiliary one.
    """

    def __init__(self, backbone: Backbone, num_classes: int, options: SegmentationConfig) -> None:
        super().__init__(backbone)
        self.options, self.num_classes = options, num_classes
        self.auxiliary: nn.Module | None = None
        self.neck: nn.Module | None = None
        self.net: nn.Module | None = None
        if options.head == "pspnet":
            from vistill.models.pspnet import PSPNet

            self.net = PSPNet(backbone, num_classes)
            return
        self.maps = FeatureMaps(backbone)
        widths = self.maps.widths
        if options.head == "linear":
            self.head: nn.Module = LinearHead(widths[-1], num_classes)
            return
        if options.wide and not self.maps.plain:
            raise UserError(
                f"segmentation.wide is for plain ViTs, and {backbone.origin} has maps of several "
                "sizes"
            )
        if options.wide:
            neck = WidePyramid(widths[-1])
            self.neck, widths = neck, neck.widths
        elif self.maps.plain:
            self.neck = SimplePyramid(widths[-1])
        self.head = UperHead(widths, options.channels, num_classes)
        if options.auxiliary:
            self.auxiliary = FCNHead(widths[level_of(widths)], _AUXILIARY, num_classes)

    def scores(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Class scores of every pixel of normalised images of the backbone's size."""
        return self._scores(images, None)[0]

    def forward(self, batch: Batch) -> Losses:
        images = self.student.normalization(batch.unit_pixels()[:, :3])
        labels = (batch.pixels[:, 3].float() * (1 if _whole(batch.pixels) else 255)).round().long()
        main, other = self._scores(images, batch.seeds)
        terms = {"pixels": (1.0, pixel_loss(main, labels))}
        if other is not None:
            terms["auxiliary"] = (self.options.auxiliary, pixel_loss(other, labels))
        return weighted(terms)

    def groups(self) -> list[Group]:
        """Parameter groups: by layer, or of PSPNet by part."""
        options = self.options
        if self.net is not None:
            made: Any = self.net
            return [
                {**group, "weight_decay": options.weight_decay, "decays": True}
                for group in made.groups()
            ]
        return layer_decay_groups(
            self,
            options.weight_decay,
            options.layer_decay,
            self.student.depth,
            layer_of=self.student.parameter_layers().__getitem__,
            decay_biases=options.decay_biases,
            decay_positions=options.decay_positions,
        )

    def _scores(
        self, images: Tensor, seeds: Int[Tensor, " b"] | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.net is not None:
            main, other = self.net(images, seeds)
            return main, other if self.options.auxiliary else None
        noise = None if seeds is None else drop_path_noise(self.student, seeds, Stream.DROP_PATH)
        maps = self.maps(images, noise)
        if self.neck is not None:
            maps = self.neck(maps)
        of = maps if isinstance(self.head, UperHead) else maps[-1]
        main = self._classified(self.head, of, seeds, images)
        if self.auxiliary is None or seeds is None:
            return main, None
        seen = maps[level_of(self.maps.widths)]
        return main, self._classified(self.auxiliary, seen, seeds, images)

    def _classified(self, head: Any, maps: Any, seeds: Tensor | None, images: Tensor) -> Tensor:
        found = head.features(maps)
        if seeds is not None:
            ones = found.new_ones(found.shape[:2])
            found = found * head_dropout(ones, seeds, _DROPOUT)[:, :, None, None]
        size = images.shape[2:]
        return F.interpolate(head.conv_seg(found), size, mode="bilinear", align_corners=False)


def _whole(pixels: Tensor) -> bool:
    return not pixels.is_floating_point()


def pixel_loss(scores: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Cross entropy, mean over all pixels, of which ignored ones count 0 (spec 9)."""
    return F.cross_entropy(scores.float(), labels, ignore_index=IGNORED, reduction="none").mean()


def build_segmenter(
    backbone: Backbone, num_classes: int, options: SegmentationConfig, crop: int, seed: int
) -> Segmenter:
    """A segmenter around a copy of `backbone` for windows of `crop` pixels.

    Raises:
        UserError: the backbone cannot do what is asked of it.
    """
    own = prepare_backbone(backbone, crop, "avg", setting="segmentation.crop")
    if options.relative_bias:
        own = with_relative_bias(own)
    let_learn(own, options.drop_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Segmenter(own, num_classes, options)
    pixels = torch.full((2, 4, crop, crop), 0.5)
    pixels[:, 3] = 0.0
    positions = torch.arange(2)
    freeze_unreached(made, Batch(pixels=pixels, seeds=positions, ids=positions))
    return made
