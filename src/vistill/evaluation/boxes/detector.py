"""A backbone with a pyramid of maps and the heads of a detector, trained as a method (spec kdep
11.3)."""

from collections import OrderedDict
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.boxes import BoxesConfig
from vistill.evaluation.boxes.views import ThingsBatch
from vistill.evaluation.classifier import let_learn, prepare_backbone
from vistill.heads.pyramids import LastMapPyramid, MapsPyramid
from vistill.heads.regions import RegionHeads
from vistill.methods.base import Method, weighted
from vistill.methods.side import drop_path_noise
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Backbone
from vistill.models.maps import FeatureMaps
from vistill.random import Stream
from vistill.training.optim import Group, layer_decay_groups


class Detector(Method):
    """Backbone, pyramid, heads; its forward is the training loss.

    The loss is the mean over pictures of their losses, which are torchvision's: neither ranks nor
    micro-batches change it.

    Args:
        backbone: becomes part of the detector and is trained.
        num_classes: of things.
        options: heads and what is learned.
    """

    def __init__(self, backbone: Backbone, num_classes: int, options: BoxesConfig) -> None:
        super().__init__(backbone)
        self.options = options
        self.maps = FeatureMaps(backbone)
        widths, channels = self.maps.widths, options.channels
        self.neck: nn.Module = (
            LastMapPyramid(widths[-1], channels)
            if self.maps.plain
            else MapsPyramid(widths, channels)
        )
        height, width = backbone.image_size
        self.eval()  # batch norms are to learn nothing from a blank picture
        with torch.no_grad():
            blank = next(backbone.parameters()).new_zeros(1, 3, height, width)
            pyramid = self.neck(self.maps(blank))
        self.heads = RegionHeads(
            pyramid,
            (height, width),
            num_classes,
            anchors=options.anchors,
            regions=options.regions,
            convolutional=options.head == "convolutional",
            masks=options.masks,
            least_score=options.least_score,
        )

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.options.norms == "frozen":
            for part in _batch_norms(self.student):
                part.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        assert isinstance(batch, ThingsBatch)
        images = self.student.normalization(batch.unit_pixels())
        pyramid = self._pyramid(images, batch.seeds)
        found: list[dict[str, Tensor]] = []
        with torch.autocast(images.device.type, enabled=False):
            for number, seen in enumerate(batch.inputs["seen"].tolist()):
                things = batch.of(number)
                things["labels"] = things.pop("classes")
                one = {name: level[number : number + 1] for name, level in pyramid.items()}
                seed = batch.seeds[number : number + 1]
                found.append(self.heads.losses(one, tuple(seen), things, seed))
        return weighted(
            {
                name.removeprefix("loss_"): (1.0, torch.stack([one[name] for one in found]).mean())
                for name in found[0]
            }
        )

    def detect(
        self, images: Float[Tensor, "b 3 h w"], seen: Int[Tensor, "b 2"]
    ) -> list[dict[str, Tensor]]:
        """What is found on every one of some normalised images, see `RegionHeads.found`."""
        pyramid = self._pyramid(images, None)
        return [
            self.heads.found(
                {name: level[number : number + 1] for name, level in pyramid.items()},
                tuple(part),
            )
            for number, part in enumerate(seen.tolist())
        ]

    def groups(self) -> list[Group]:
        """Parameter groups by layer."""
        options = self.options
        return layer_decay_groups(
            self,
            options.weight_decay,
            options.layer_decay,
            self.student.depth,
            layer_of=self.student.parameter_layers().__getitem__,
            decay_biases=options.decay_biases,
        )

    def _pyramid(
        self, images: Tensor, seeds: Int[Tensor, " b"] | None
    ) -> OrderedDict[str, Float[Tensor, "b c h w"]]:
        noise = None if seeds is None else drop_path_noise(self.student, seeds, Stream.DROP_PATH)
        pyramid = self.neck(self.maps(images, noise))
        # Boxes of many pixels need more digits than autocast leaves them.
        return OrderedDict((name, level.float()) for name, level in pyramid.items())


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def build_detector(
    backbone: Backbone,
    num_classes: int,
    options: BoxesConfig,
    size: tuple[int, int],
    seed: int,
) -> Detector:
    """A detector around a copy of `backbone` for pictures of `size`.

    Raises:
        UserError: the backbone cannot do what is asked of it.
    """
    own = prepare_backbone(backbone, size, "avg", setting="boxes.size")
    let_learn(own, options.drop_path)
    if options.norms == "frozen":
        for part in _batch_norms(own):
            part.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Detector(own, num_classes, options)
    freeze_unreached(made, _grey_square(size, masks=options.masks))
    return made


def _grey_square(size: tuple[int, int], *, masks: bool) -> ThingsBatch:
    """Two grey pictures with a thing each."""
    height, width = size
    numbers = torch.arange(2)
    box = [width / 4, height / 4, 3 * width / 4, 3 * height / 4]
    return ThingsBatch(
        pixels=torch.full((2, 3, height, width), 0.5),
        seeds=numbers,
        ids=numbers,
        inputs={"seen": torch.tensor([size, size]), "whole": torch.tensor([size, size])},
        boxes=torch.tensor([[0.0, *box], [1.0, *box]]),
        classes=torch.ones(2, dtype=torch.long),
        masks=torch.ones(2, height, width, dtype=torch.uint8) if masks else None,
    )
