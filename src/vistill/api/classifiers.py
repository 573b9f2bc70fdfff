"""Fine-tuned classifiers for use elsewhere: `load_classifier`, and what `export` does with them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vistill.errors import UserError
from vistill.image_size import ImageSize

if TYPE_CHECKING:
    from vistill.evaluation.kept import Head
    from vistill.evaluation.trained import TrainedClassifier
    from vistill.models.backbone import Backbone


def load_classifier(
    source: "str | os.PathLike[str]", *, image_size: ImageSize | None = None
) -> "TrainedClassifier":
    """A fine-tuned model with its head: `classifier(pixels)` are class scores, `.classes` names.

    Args:
        source: a folder that `finetune.keep` or `export` wrote, a published file with its head, or
            `timm/NAME:pretrained,classifier=keep` and the like.
        image_size: side of the square input in pixels, or (height, width); None: the model's own.

    Raises:
        UserError: there is no such model, or it has no head.
    """
    from vistill.api.export import backbone_reference, load_backbone
    from vistill.evaluation.trained import trained_classifier

    reference = backbone_reference(source)
    return trained_classifier(load_backbone(reference), reference, image_size=image_size)


def export_classifier(
    backbone: "Backbone", head: "Head", folder: Path, format: str, reference: str
) -> list[Path]:
    """Write a fine-tuned model with head and class names; the files.

    Raises:
        UserError: it cannot be had in that format.
    """
    from vistill.evaluation.kept import HEAD, save_kept
    from vistill.evaluation.trained import kept_facts, trained_classifier
    from vistill.models.export import DESCRIPTION, WEIGHTS, save_timm_classifier
    from vistill.models.timm_form import timm_classifier

    facts = kept_facts(reference)
    if format == "torch":
        save_kept(backbone, head, folder, **facts)
        return [folder / WEIGHTS, folder / HEAD, folder / DESCRIPTION]
    trained = trained_classifier(backbone, reference)
    if format == "onnx":
        return _to_onnx(trained, folder)
    form = timm_classifier(trained.backbone, head.state, trained.of_images)
    if form is None:
        raise UserError(
            f"timm has no classifier like {reference} ({backbone.origin}); use --format torch or "
            "--format onnx"
        )
    told = {"pool": head.pool, "interpolation": head.interpolation}
    save_timm_classifier(trained.backbone, form, folder, told, classes=trained.classes, **facts)
    (folder / HEAD).unlink(missing_ok=True)  # of an earlier export
    return [folder / WEIGHTS, folder / DESCRIPTION]


def _to_onnx(trained: "TrainedClassifier", folder: Path) -> list[Path]:
    from torch import Tensor, nn

    from vistill.models.onnx_files import write_onnx

    class FromPixels(nn.Module):
        """Names what comes out."""

        def __init__(self) -> None:
            super().__init__()
            self.trained = trained

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            logits = trained(pixels)
            return logits, logits.softmax(dim=1)

    backbone, count = trained.backbone, len(trained.classes)
    clip = () if backbone.num_frames == 1 else (backbone.num_frames,)
    return write_onnx(
        FromPixels(),
        folder,
        size=(*clip, *backbone.image_size),
        free="pooled_act" in backbone.taps,
        outputs={
            "logits": f"[batch, {count}] class scores",
            "probabilities": f"[batch, {count}] their softmax",
        },
        name=backbone.origin,
        classes=trained.classes,
        origin=backbone.origin,
    )
