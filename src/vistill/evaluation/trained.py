"""A trained classifier from pixels to class scores, wherever its head came from."""

import json
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.saved_classifier import Head, find_head, read_head, with_head
from vistill.image_size import ImageSize
from vistill.models.backbone import Backbone, Tap
from vistill.models.export import DESCRIPTION

_FACTS = ("clips", "value_range")


class TrainedClassifier(nn.Module):
    """Class scores of pixels; it normalises them itself.

    Attributes:
        classes: names by output.
        backbone: in front of the head; tells `image_size`, `num_frames`, `normalization`.
        head: pooling, and how pictures are resized in tests; None of a model with its own
            classifier.
    """

    def __init__(self, model: Classifier | Backbone, classes: list[str], head: Head | None) -> None:
        super().__init__()
        self.model, self.classes, self.head = model, classes, head

    @property
    def names(self) -> list[str] | None:
        """Of the classes by output, where somebody named them."""
        return self.backbone.class_names if self.head is None else self.head.classes

    @property
    def interpolation(self) -> Literal["bicubic", "bilinear"]:
        """How pictures are resized in tests."""
        return (self.head or self.backbone).interpolation

    @property
    def backbone(self) -> Backbone:
        """What is in front of the head."""
        return self.model.student if isinstance(self.model, Classifier) else self.model

    def of_images(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b c"]:
        """Class scores of normalised pictures or clips."""
        if isinstance(self.model, Classifier):
            return self.model.logits(images)
        tap = Tap("logits", self.model.depth)
        return self.model.tap(images, [tap])[tap]

    def forward(self, pixels: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b c"]:
        """Class scores of pixels in [0, 1]; `softmax(1)` makes probabilities of them."""
        return self.of_images(self.backbone.normalization(pixels))


def trained_classifier(
    backbone: Backbone,
    reference: Any,
    *,
    image_size: ImageSize | None = None,
    frames: int | None = None,
) -> TrainedClassifier:
    """The classifier that `reference` names, whose backbone is given.

    Args:
        backbone: that was loaded from `reference`.
        reference: `run:DIR` of a saved or exported model, or `file:PATH` of a published one; of
            anything else the backbone has to keep its own classifier.
        image_size: side of the square input in pixels, or (height, width), for a head that is
            saved beside its backbone; None: the backbone's own.
        frames: of a clip; None: the backbone's own.

    Raises:
        UserError: there is no head.
    """
    saved = find_head(reference)
    if saved is None and "logits" in backbone.taps:
        count = backbone.shape(Tap("logits", backbone.depth)).width
        names = backbone.class_names or [str(n) for n in range(count)]
        return TrainedClassifier(backbone, names, None).eval()
    named = isinstance(reference, str) and reference.startswith(("run:", "file:"))
    if saved is None and not named:
        raise UserError(
            f"{backbone.origin} has no classifier: give a model that finetune.keep wrote, or write "
            "NAME:pretrained,classifier=keep"
        )
    head = saved or read_head(reference)
    classifier = with_head(backbone, head, image_size or backbone.image_size, frames)
    return TrainedClassifier(classifier, head.names, head).eval()


def kept_facts(reference: str) -> dict[str, Any]:
    """What else the description of a saved or exported model says about its inputs."""
    path = Path(reference.removeprefix("run:")) / DESCRIPTION
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: told[key] for key in _FACTS if key in told}
