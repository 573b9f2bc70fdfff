"""Exports under the names of published checkpoints, for the code that was released with them."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vistill.errors import UserError

if TYPE_CHECKING:
    from vistill.evaluation.saved_classifier import Head
    from vistill.models.backbone import Backbone
    from vistill.models.text.answering import Answerer
    from vistill.models.text.video_text import VideoText

PUBLISHED = ("mae", "videomae", "umt")
FILE = "checkpoint.pth"


def export_published(
    backbone: "Backbone",
    format: str,
    folder: Path,
    run: Path | None = None,
    head: "Head | None" = None,
    reader: "VideoText | Answerer | None" = None,
) -> Path:
    """Write `checkpoint.pth`: a dictionary whose `model` holds the weights, or of UMT, whose second
    stage opens nothing else, the weights themselves.

    Args:
        backbone: a ViT of MAE's, VideoMAE's or UMT's kind.
        format: `mae`, `videomae` or `umt`.
        folder: made if missing.
        run: a run whose newest checkpoint also gives decoder, projections and generators; None:
            the encoder only.
        head: of a fine-tuned classifier, which has names of its own.
        reader: what reads beside the backbone, of UMT's second stage or of questions.

    Raises:
        UserError: the backbone has parts that the format does not know.
    """
    import torch

    from vistill.files import write_atomic
    from vistill.models.files.mae import published_mae_encoder, published_mae_names
    from vistill.models.files.umt import classifier_table, published_umt_encoder
    from vistill.models.files.umt_asked import published_asked
    from vistill.models.files.umt_joint import published_towers
    from vistill.models.files.videomae import published_encoder, published_names
    from vistill.models.text.answering import Answerer
    from vistill.models.vit import VisionTransformer
    from vistill.training.checkpoint import load_newest

    if not isinstance(backbone, VisionTransformer):
        raise UserError(f"a {type(backbone).__name__} has no {format} names; use --format torch")
    encoder, names = {
        "mae": (published_mae_encoder, published_mae_names),
        "videomae": (published_encoder, published_names),
        "umt": (published_umt_encoder, published_names),
    }[format]
    if reader is None:
        state = encoder(backbone)
    elif isinstance(reader, Answerer):
        state = published_asked(backbone, reader)
    else:
        state = published_towers(backbone, reader)
    if run is not None:
        saved = load_newest(run / "checkpoints") if (run / "checkpoints").is_dir() else None
        if saved is None:
            raise UserError(f"{run} holds no checkpoint of a pre-training, only a backbone")
        found = names(saved["model"])
        if reader is not None:  # all but the decoders of the alignment are in its export
            found = {f"vision_encoder.{k}": v for k, v in found.items() if k.startswith("clip_")}
        state = found | state
    if head is not None:
        state = {name.removeprefix("encoder."): value for name, value in state.items()}
        if "fc_norm.weight" in head.state:
            del state["norm.weight"], state["norm.bias"]
        state |= head.state | (classifier_table(backbone) if format == "umt" else {})
    weights = {k: v.detach().cpu().clone() for k, v in state.items()}
    content = io.BytesIO()
    torch.save(weights if format == "umt" else {"model": weights}, content)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, content.getvalue())
    told = {"format": f"vistill-published/{format}", "origin": backbone.origin}
    write_atomic(folder / "checkpoint.json", json.dumps(told, indent=2) + "\n")
    return folder / FILE
