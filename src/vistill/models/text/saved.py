"""A tower that reads beside an exported backbone: `text.safetensors`, `text.json` and
`tokenizer.json`; and both together as one model."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.models.export import find_export, read_backbone
from vistill.models.joint_umt import UMTJoint
from vistill.models.text.bert import BertSizes, SplitBert
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer
from vistill.tokenizing import Tokenizer

FORMAT = "vistill-text/1"
_WEIGHTS, _DESCRIPTION = "text.safetensors", "text.json"
TOKENIZER = "tokenizer.json"
_TIED = ("text.cls.predictions.decoder.weight", "text.cls.predictions.decoder.bias")


def save_text(joint: VideoText, folder: Path, *, tokenizer: str, length: int) -> None:
    """Write what reads beside a backbone; each file appears whole or not at all.

    Args:
        joint: the tower with its projections and heads.
        folder: of the exported backbone.
        tokenizer: text of a `tokenizer.json`.
        length: tokens of every sentence.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in joint.state_dict().items()}
    state = {k: v for k, v in state.items() if k not in _TIED}
    described = {
        "format": FORMAT,
        "sizes": asdict(joint.text.sizes),
        "embedding": joint.text_proj.out_features,
        "decay_temperature": joint.temperature.dim() > 0,
        "length": length,
    }
    write_atomic(folder / TOKENIZER, tokenizer)
    write_atomic(folder / _WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / _DESCRIPTION, json.dumps(described, indent=2) + "\n")


def load_video_text(folder: Path) -> UMTJoint | None:
    """The student of a run or export with its tower that reads; None where it has none.

    Raises:
        UserError: there is no such run, or its files do not fit together.
    """
    place = find_export(folder)
    if not (place / _DESCRIPTION).is_file():
        return None
    backbone = read_backbone(place)
    try:
        told = json.loads((place / _DESCRIPTION).read_text())
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r}")
        decays = told["decay_temperature"]
        joint = VideoText(
            SplitBert(BertSizes(**told["sizes"])), told["embedding"], decay_temperature=decays
        )
        state = load_file(place / _WEIGHTS)
        odd = (joint.state_dict().keys() - set(_TIED)) ^ state.keys()
        if odd:
            raise ValueError(f"{min(odd)} is missing or not known")
        joint.load_state_dict(state, strict=False)
        cut = Tokenizer(str(place / TOKENIZER), told["length"])
    except Exception as error:
        raise UserError(f"cannot read the text tower in {place}: {error}") from error
    assert isinstance(backbone, VisionTransformer)
    model = UMTJoint(backbone, joint, cut)
    model.origin, model.untrained = backbone.origin, backbone.untrained
    return model.eval()
