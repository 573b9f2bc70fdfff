"""`export` and `load_backbone`: trained backbones for use elsewhere."""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.api.classifiers import export_classifier
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.files import PARTIAL
from vistill.image_size import ImageSize
from vistill.locking import LOCK
from vistill.models.sizes import LIBRARIES, is_function
from vistill.runs.published import PUBLISHED, export_published

if TYPE_CHECKING:
    from torch import nn

    from vistill.models.backbone import Backbone

FORMATS = ("timm", "torch", "onnx", *PUBLISHED)
_KINDS = ("run:", "file:", *LIBRARIES)


def export(
    source: "str | os.PathLike[str] | Backbone",
    *,
    out: str | os.PathLike[str],
    format: Literal["timm", "torch", "onnx", "mae", "videomae"] | str = "timm",
    which: Literal["best", "last"] | str | None = None,
    random_init: bool = False,
    model: "nn.Module | str | None" = None,
) -> list[Path]:
    """Write a backbone, or a fine-tuned model with its head, for use elsewhere; return the files.

    `timm`: `model.safetensors` and `model.json`, whose `timm` entry is what `timm.create_model`
    takes to build a model that loads the weights with `strict=True`. `torch`: the same two files
    for any backbone that vistill can build again. `onnx`: `model.onnx` from `pixels`
    `[B, 3, H, W]` in [0, 1] to `tokens` `[B, N, D]` and `pooled` `[B, D]`, which is
    `Backbone.pooled`; it normalises its input itself, takes any batch and, of a CNN, any size. Also
    needs the extra `vistill[onnx]`. `mae`, `videomae`: `checkpoint.pth`
    under the names of the published files (AMD has VideoMAE's), which their code loads; of a run
    with `which="last"` with decoder, projections and generators.

    Of a model that `finetune.keep` wrote, head and class names come along: `model(x)` in timm and
    `logits` and `probabilities` in ONNX are its answer, and `model.json` or `onnx.json` names the
    `classes`.

    Args:
        source: a run folder, `run:DIR`, `file:PATH`, `timm/NAME:pretrained` or a `Backbone`.
        out: folder to write to; made if missing. In one that holds other files than an export
            nothing is written.
        format: see above.
        which: `best` or `last` of a run; None: the best where there is one.
        random_init: allow a backbone whose weights nobody trained.
        model: the module of your own that was the run's student, or `FILE.py:NAME` that makes it.

    Raises:
        UserError: no such backbone, nobody trained it, or it cannot be had in that format.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}{did_you_mean(format, FORMATS)}")
    if which not in (None, "best", "last"):
        raise UserError(f"which must be best or last, not {which!r}")
    if format == "onnx" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        raise UserError("format onnx needs an extra: pip install 'vistill[onnx]'")
    reference, model = with_module(backbone_reference(source, which=which), model)
    target = Path(out)
    require_own(target)

    from vistill.evaluation.kept import HEAD, find_head
    from vistill.models.export import save_backbone
    from vistill.models.timm_form import timm_form

    backbone = load_backbone(reference, into=model)
    if backbone.untrained and not random_init:
        raise UserError(
            f"{source} would have random weights; write timm/NAME:pretrained, run:DIR or "
            "file:PATH, or say --random-init if that is what you want"
        )
    head = find_head(reference)
    if head is not None and format not in PUBLISHED:
        return export_classifier(backbone, head, target, format, reference)
    if format == "onnx":
        return _export_onnx(backbone, target)
    if format in PUBLISHED:
        whole = which == "last" and isinstance(reference, str) and reference.startswith("run:")
        run = Path(reference.removeprefix("run:")).parent.parent if whole else None
        return [export_published(backbone, format, target, run)]
    if format == "timm":
        form = timm_form(backbone)
        if form is None:
            raise UserError(f"timm has no model like {source}; use --format torch")
        if form.feature is None:
            raise UserError(
                f"timm builds {source}, but has no place where it gives the feature that is "
                "measured here; use --format torch or --format onnx"
            )
    save_backbone(backbone, target)
    (target / HEAD).unlink(missing_ok=True)  # of an earlier export
    return [target / "model.safetensors", target / "model.json"]


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


def backbone_reference(source: Any, *, which: str | None = None) -> Any:
    """`run:DIR` for a folder, `file:PATH` for a file, anything else as it is.

    Raises:
        UserError: a path that is not there, or a run without the export that is asked for.
    """
    if not isinstance(source, str | os.PathLike):
        from vistill.models.backbone import require_backbone

        return require_backbone(source)
    text = os.fspath(source)
    if not text.startswith(_KINDS):
        place = Path(text)
        if place.is_dir() or (place.parent / "export" / place.name).is_dir():
            text = f"run:{text}"
        elif Path(text).is_file():
            text = f"file:{text}"
        elif os.sep in text and not is_function(text):
            raise UserError(f"{text} does not exist")
    if which is None or not text.startswith("run:"):
        return text
    where, _, module = text.removeprefix("run:").partition(",model=")
    run = Path(where)
    folder = run / "export" / which
    if not run.exists():  # RUN/NAME: one of several students
        folder = run.parent / "export" / run.name / which
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: {run} is no finished run")
    return f"run:{folder},model={module}" if module else f"run:{folder}"


def with_module(reference: Any, module: Any) -> tuple[Any, Any]:
    """`run:DIR,model=FILE.py:NAME` taken apart; `module` where it was given beside it."""
    if isinstance(reference, str) and reference.startswith("run:"):
        reference, _, named = reference.partition(",model=")
        module = named or module
    return reference, module


_MARKS = ("model.json", "onnx.json", "checkpoint.json")
_FILES = (
    *_MARKS,
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


def _export_onnx(backbone: "Backbone", folder: Path) -> list[Path]:
    from torch import Tensor, nn

    from vistill.models.onnx_files import write_onnx

    class FromPixels(nn.Module):
        """Normalises and names what comes out."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            return backbone.tokens_and_pooled(backbone.normalization(pixels))

    clip = () if backbone.num_frames == 1 else (backbone.num_frames,)
    cnn = "pooled_act" in backbone.taps
    tokens = "of the last map" if cnn else "after the final norm"
    return write_onnx(
        FromPixels(),
        folder,
        size=(*clip, *backbone.image_size),
        free=cnn,
        outputs={
            "tokens": f"[batch, tokens, {backbone.width}] {tokens}",
            "pooled": f"[batch, {backbone.width}] the feature that is measured",
        },
        name=backbone.origin,
        origin=backbone.origin,
    )
