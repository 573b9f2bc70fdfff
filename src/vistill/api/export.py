"""`export`, `load_backbone` and `load_classifier`: trained models for use elsewhere."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vistill.errors import UserError
from vistill.image_size import ImageSize
from vistill.runs.exporting import (
    cheaper_onnx,
    require_format,
    require_own,
    require_precision,
    write_export,
)
from vistill.runs.reference import backbone_reference, require_trained, with_module

if TYPE_CHECKING:
    from torch import nn

    from vistill.evaluation.trained import TrainedClassifier
    from vistill.models.backbone import Backbone


def export(
    source: "str | os.PathLike[str] | Backbone",
    *,
    out: str | os.PathLike[str],
    format: str = "timm",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    calibrate: str | os.PathLike[str] | None = None,
    which: Literal["best", "last"] | str | None = None,
    random_init: bool = False,
    model: "nn.Module | str | None" = None,
) -> list[Path]:
    """Write a backbone, or a fine-tuned model with its head, for use elsewhere; return the files.

    `timm`: `model.safetensors` and `model.json`, whose `timm` entry is what `timm.create_model`
    takes to build a model that loads the weights with `strict=True`; and `config.json` and a card,
    `README.md`, by which `timm.create_model("local-dir:OUT", pretrained=True)` loads the folder.
    `transformers`: a folder that `AutoModel.from_pretrained` loads, with an image processor and a
    card, of plain ViTs, ResNets and that library's own models. `torch`: weights and `model.json`
    of any backbone that vistill can build again. `onnx`: `model.onnx` from `pixels`
    `[B, 3, H, W]` in [0, 1] to `tokens` `[B, N, D]` and `pooled` `[B, D]`, which is
    `Backbone.pooled`; it normalises its input itself, takes any batch and, of a CNN, any size. Also
    needs the extra `vistill[onnx]`; `vistill.evaluate` measures what was written. `mae`,
    `videomae`, `umt`: `checkpoint.pth` under the names of the published files (AMD has VideoMAE's),
    which their code loads; of a run with `which="last"` with decoder, projections and generators,
    of UMT's second stage and its retrieval with the tower that reads.

    Of a model that `finetune.keep` wrote, head and class names come along: `model(x)` in timm and
    `logits` and `probabilities` in ONNX are its answer, and `model.json` or `onnx.json` names the
    `classes`.

    Args:
        source: a run folder, `run:DIR`, `file:PATH`, `timm/NAME:pretrained` or a `Backbone`.
        out: folder to write to; made if missing. In one that holds other files than an export
            nothing is written.
        format: see above.
        precision: of an ONNX file. In `fp16` weights and arithmetic, what goes in and out stays
            fp32; in `int8` convolutions and linear layers, by ranges that are seen on pictures.
        calibrate: pictures for `int8`, of which up to 200 are seen.
        which: `best` or `last` of a run; None: the best where there is one.
        random_init: allow a backbone whose weights nobody trained.
        model: the module of your own that was the run's student, or `FILE.py:NAME` that makes it.

    Raises:
        UserError: no such backbone, nobody trained it, or it cannot be had in that format.
    """
    require_format(format, which)
    require_precision(format, precision, calibrate)
    reference, model = with_module(backbone_reference(source, which=which), model)
    if which is not None and not (isinstance(reference, str) and reference.startswith("run:")):
        raise UserError(
            f"which={which} (--which) chooses among the exports of a run, and {source} is none; "
            "leave it out"
        )
    target = Path(out)
    require_own(target)

    backbone = load_backbone(reference, into=model)
    if not random_init:
        require_trained(backbone, source, or_say="--random-init")
    elif not backbone.untrained:
        raise UserError(
            "random_init (--random-init) allows weights that nobody trained, and those of "
            f"{source} are trained; leave it out"
        )
    pictures = None if calibrate is None else os.fspath(calibrate)
    cheaper = cheaper_onnx(precision, pictures, backbone, str(reference))
    return write_export(
        backbone, reference, target, format, cheaper, source=source, whole=which == "last"
    )


def load_backbone(
    source: "str | os.PathLike[str] | Backbone",
    *,
    image_size: ImageSize | None = None,
    into: "nn.Module | str | None" = None,
) -> "Backbone":
    """A backbone with its weights, ready for `backbone.pooled(backbone.normalization(pixels))`.

    Args:
        source: a run folder, `run:DIR`, `file:PATH`, `timm/NAME[:pretrained]`, `hf/FOLDER` and the
            like, the name of a ViT (random weights) or a `Backbone`.
        image_size: side of the square input in pixels, or (height, width); None: the model's own.
        into: the module of your own that was the run's student, bare or wrapped as it was, or
            `FILE.py:NAME` that makes it; its weights become the run's, strictly by its own names.

    Raises:
        UserError: there is no such model, or its weights do not fit.
    """
    from vistill.models.build import load_backbone

    reference, into = with_module(backbone_reference(source), into)
    return load_backbone(reference, image_size=image_size, into=into).eval()


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
    from vistill.evaluation.trained import trained_classifier

    reference = backbone_reference(source)
    return trained_classifier(load_backbone(reference, image_size=image_size), reference)
