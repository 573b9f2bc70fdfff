"""How exports are written: among no other files, as ONNX, of fine-tuned models with the head."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.config.samples import SamplesConfig
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.files import PARTIAL
from vistill.locking import LOCK
from vistill.runs.hub import HUB, write_timm_hub, write_transformers
from vistill.runs.published import PUBLISHED, export_published
from vistill.runs.samples import as_trained, open_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vistill.evaluation.saved_classifier import Head
    from vistill.evaluation.trained import TrainedClassifier
    from vistill.models.backbone import Backbone
    from vistill.models.onnx_files import Cheaper, Precision

FORMATS = ("timm", "transformers", "torch", "onnx", *PUBLISHED)
PRECISIONS = ("fp32", "fp16", "int8")
_CALIBRATED = 200
"""Pictures that ranges are taken from."""
_MARKS = ("model.json", "onnx.json", "checkpoint.json", "export.json")
_FILES = (
    *_MARKS,
    *("README.md", "config.json", "preprocessor_config.json", "processor_config.json"),
    *("model.safetensors", "model.onnx", "model.onnx.data", "checkpoint.pth", "head.safetensors"),
)


def require_own(folder: Path) -> None:
    """Refuse to write an export among other files.

    Raises:
        UserError: `folder` is a file, or holds something that is not of an export.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"the output folder {folder} is a file")
    if not folder.exists():
        return
    names = sorted(p.name for p in folder.iterdir() if not p.name.startswith((PARTIAL, LOCK)))
    other = next((name for name in names if name not in _FILES), None)
    ours = any((folder / mark).is_file() and _is_mark(folder / mark) for mark in _MARKS)
    if names and (other is not None or not ours):
        raise UserError(
            f"{folder} holds other files, such as {other or names[0]}; name a new folder for the "
            "export, or one that an export was written to before"
        )


def _is_mark(path: Path) -> bool:
    """Whether a description was written by an export."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["format"]).startswith("vistill-")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def require_format(format: str, which: str | None) -> None:
    """
    Raises:
        UserError: no such format, an extra that it needs is missing, or no such weights of a run.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if which not in (None, "best", "last"):
        raise UserError(
            f"which must be best or last, not {which!r}{did_you_mean(which, ('best', 'last'))}"
        )
    if format == "onnx" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError("format onnx needs an extra: pip install 'vistill[onnx]'")
    if format == "transformers" and find_spec("transformers") is None:
        raise UserError("format transformers needs an extra: pip install 'vistill[teachers]'")


def require_precision(format: str, precision: str, calibrate: Any) -> None:
    """
    Raises:
        UserError: no such type, of a format that has it, or no pictures to calibrate it on.
    """
    if precision not in PRECISIONS:
        raise UserError(
            f"unknown precision {precision!r}{did_you_mean(precision, PRECISIONS)}; ONNX has "
            f"{', '.join(PRECISIONS)}"
        )
    if precision != "fp32" and format != "onnx":
        raise UserError(
            f"precision {precision} is one of ONNX files, and format {format} has fp32 alone; use "
            "--format onnx"
        )
    if precision == "int8" and calibrate is None:
        raise UserError("precision int8 needs pictures to calibrate on: give --calibrate DIR")
    if precision != "int8" and calibrate is not None:
        raise UserError(f"--calibrate {calibrate} is for --precision int8; leave it out")


def cheaper_onnx(
    precision: "Precision", calibrate: str | None, backbone: "Backbone", reference: str
) -> "Cheaper | None":
    """How the file comes to that type; None for fp32.

    Raises:
        UserError: no pictures to calibrate on, or a model of clips.
    """
    import numpy as np

    from vistill.models.onnx_files import Cheaper
    from vistill.models.onnx_precision import to_fp16, to_int8

    if precision == "fp32":
        return None
    if precision == "fp16":
        clip = () if backbone.num_frames == 1 else (backbone.num_frames,)
        shape = (2, 3, *clip, *backbone.image_size)
        return Cheaper(precision, to_fp16, np.random.default_rng(0).random(shape, np.float32))
    if backbone.num_frames > 1:
        raise UserError(f"int8 is calibrated on pictures, and {reference} takes clips; use fp16")
    assert calibrate is not None
    pictures = _pictures(calibrate, backbone, reference)
    return Cheaper(precision, lambda file, out: to_int8(file, out, pictures), pictures[0])


def _pictures(data: str, backbone: "Backbone", reference: str) -> "list[NDArray]":
    """Batches of pixels in [0, 1] of some pictures, evenly spread over all of them."""
    import numpy as np

    from vistill.data import BrokenFiles, EvalTransform, eval_batches

    source = open_samples(as_trained(SamplesConfig(), reference), data, "image")
    count = min(len(source), _CALIBRATED)
    chosen = np.linspace(0, len(source) - 1, count).round().astype(int)
    batches = eval_batches(
        source,
        chosen,
        EvalTransform(backbone.image_size),
        batch_size=8,
        workers=0,
        broken=BrokenFiles(count, max_share=1.0, noun="picture"),
    )
    found = [batch.unit_pixels().numpy() for batch in batches]
    if not found:
        raise UserError(f"none of the {count} pictures of {data} that were tried can be read")
    return found


def write_export(
    backbone: "Backbone",
    reference: Any,
    folder: Path,
    format: str,
    cheaper: "Cheaper | None",
    *,
    source: Any,
    whole: bool,
) -> list[Path]:
    """Write a backbone, with its head where it has one, in a format; the files.

    Args:
        backbone: with its weights.
        reference: of it, as `vistill.models.build` reads it.
        folder: to write to.
        format: of `vistill.export`.
        cheaper: the type of an ONNX file; None: fp32.
        source: what the user called it.
        whole: whether a published format has all of its run besides.

    Raises:
        UserError: it cannot be had in that format.
    """
    from vistill.evaluation.saved_classifier import HEAD, find_head
    from vistill.evaluation.trained import trained_classifier
    from vistill.models.export import DESCRIPTION, WEIGHTS, save_backbone
    from vistill.models.text.saved import load_reader
    from vistill.models.timm_form import timm_form

    head = find_head(reference)
    if format == "transformers":
        return write_transformers(backbone, head, folder, reference)
    if format in PUBLISHED:
        of_run = isinstance(reference, str) and reference.startswith("run:")
        place = Path(str(reference).removeprefix("run:"))
        reader = load_reader(place) if format == "umt" and of_run else None
        run = place.parent.parent if whole and of_run else None
        return [export_published(backbone, format, folder, run, head, reader)]
    if head is not None:
        return export_classifier(backbone, head, folder, format, reference, cheaper)
    if format == "onnx" and "logits" in backbone.taps:
        return _classifier_to_onnx(trained_classifier(backbone, reference), folder, cheaper)
    if format == "onnx":
        return export_onnx(backbone, folder, cheaper)
    form = timm_form(backbone) if format == "timm" else None
    if format == "timm":
        if form is None:
            raise UserError(f"timm has no model like {source}; use --format torch")
        if form.feature is None:
            raise UserError(
                f"timm builds {source}, but has no place where it gives the feature that is "
                "measured here; use --format torch or --format onnx"
            )
    for name in (HEAD, *HUB):  # of an earlier export
        (folder / name).unlink(missing_ok=True)
    save_backbone(backbone, folder)
    written = [folder / WEIGHTS, folder / DESCRIPTION]
    if form is None:
        return written
    return written + write_timm_hub(backbone, form.arguments, form.feature, folder, reference)


def export_onnx(backbone: "Backbone", folder: Path, cheaper: "Cheaper | None" = None) -> list[Path]:
    """Write the tokens and the pooled feature of a backbone as ONNX; the files."""
    tokens = "after the final norm" if backbone.depth else "of the last map"
    outputs = {
        "tokens": f"[batch, tokens, {backbone.width}] {tokens}",
        "pooled": f"[batch, {backbone.feature_width}] the feature that is measured",
    }
    return _to_onnx(
        backbone,
        backbone,
        lambda pixels: backbone.tokens_and_pooled(backbone.normalization(pixels)),
        folder,
        outputs,
        cheaper,
    )


def export_classifier(
    backbone: "Backbone",
    head: "Head",
    folder: Path,
    format: str,
    reference: str,
    cheaper: "Cheaper | None" = None,
) -> list[Path]:
    """Write a fine-tuned model with head and class names; the files.

    Raises:
        UserError: it cannot be had in that format.
    """
    from vistill.evaluation.saved_classifier import HEAD, save_with_head
    from vistill.evaluation.trained import kept_facts, trained_classifier
    from vistill.models.export import DESCRIPTION, WEIGHTS, save_timm_classifier
    from vistill.models.timm_form import timm_classifier

    facts = kept_facts(reference)
    if format == "torch":
        save_with_head(backbone, head, folder, **facts)
        for name in HUB:  # of an earlier export
            (folder / name).unlink(missing_ok=True)
        return [folder / WEIGHTS, folder / HEAD, folder / DESCRIPTION]
    trained = trained_classifier(backbone, reference)
    if format == "onnx":
        return _classifier_to_onnx(trained, folder, cheaper, **facts)
    form = timm_classifier(trained.backbone, head.state, trained.of_images)
    if form is None:
        raise UserError(
            f"timm has no classifier like {reference} ({backbone.origin}); use --format torch or "
            "--format onnx"
        )
    told = {"pool": head.pool, "interpolation": head.interpolation}
    save_timm_classifier(trained.backbone, form, folder, told, classes=trained.classes, **facts)
    (folder / HEAD).unlink(missing_ok=True)  # of an earlier export
    hub = write_timm_hub(
        trained.backbone,
        form.arguments,
        None,
        folder,
        reference,
        classes=trained.classes,
        interpolation=trained.interpolation,
    )
    return [folder / WEIGHTS, folder / DESCRIPTION, *hub]


def _classifier_to_onnx(
    trained: "TrainedClassifier", folder: Path, cheaper: "Cheaper | None", **facts: Any
) -> list[Path]:
    """Write class scores and probabilities as ONNX; the files."""
    count = len(trained.classes)
    outputs = {
        "logits": f"[batch, {count}] class scores",
        "probabilities": f"[batch, {count}] their softmax",
    }

    def both(pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        logits = trained(pixels)
        return logits, logits.softmax(dim=1)

    facts |= {"classes": trained.names, "interpolation": trained.interpolation}
    return _to_onnx(trained, trained.backbone, both, folder, outputs, cheaper, **facts)


def _to_onnx(
    owner: "nn.Module",
    backbone: "Backbone",
    compute: "Callable[[Tensor], tuple[Tensor, Tensor]]",
    folder: Path,
    outputs: dict[str, str],
    cheaper: "Cheaper | None",
    **facts: Any,
) -> list[Path]:
    """Write what `compute` makes of pixels by the weights of `owner`."""
    from torch import Tensor, nn

    from vistill.models.onnx_files import write_onnx

    class FromPixels(nn.Module):
        """Names what comes out."""

        def __init__(self) -> None:
            super().__init__()
            self.owner = owner

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            return compute(pixels)

    clip = () if backbone.num_frames == 1 else (backbone.num_frames,)
    return write_onnx(
        FromPixels(),
        folder,
        size=(*clip, *backbone.image_size),
        free=not backbone.depth,
        outputs=outputs,
        name=backbone.origin,
        cheaper=cheaper,
        origin=backbone.origin,
        **facts,
    )
