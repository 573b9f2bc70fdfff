"""An exported ONNX file as a backbone that answers: features for probes, class scores for tests."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.image_size import ImageSize, height_width
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.onnx_files import DESCRIPTION, FORMAT, MODEL, session
from vistill.models.taps import Draws, Images, Taps, Visible


def onnx_folder(reference: Any) -> Path | None:
    """The folder of an ONNX export that `run:DIR` or `file:DIR/model.onnx` names, or None.

    Raises:
        UserError: the file is of ONNX, but none of ours.
    """
    kind, _, path = str(reference).partition(":")
    place = Path(path)
    if kind == "file" and place.suffix == ".onnx":
        if not (place.parent / DESCRIPTION).is_file() or place.name != MODEL:
            raise UserError(
                f"{place} has no {DESCRIPTION} beside it, which tells its inputs and outputs: give "
                "a folder that vistill export --format onnx wrote"
            )
        return place.parent
    return place if kind == "run" and (place / DESCRIPTION).is_file() else None


class OnnxBackbone(Backbone):
    """What an exported file computes of pixels in [0, 1]; it normalises them itself, and nothing of
    it can be trained.

    Args:
        folder: that `vistill export --format onnx` wrote.

    Raises:
        UserError: it is no such folder.
    """

    answers_only = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        try:
            told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if told["format"] != FORMAT:
                raise ValueError(f"the format {told['format']!r}")
            self.outputs: tuple[str, ...] = tuple(told["outputs"])
            *clip, height, width = told["made_for"]
            self.free = not isinstance(told["input"]["pixels"][-1], int)
            self._session = session(folder / MODEL)
        except Exception as error:  # of JSON, or of whatever kind the runtime raises
            raise UserError(f"cannot read the ONNX export in {folder}: {error}") from error
        self.class_names = told.get("classes")
        self.interpolation: Literal["bicubic", "bilinear"] = told.get("interpolation", "bicubic")
        self.image_size, self.num_frames = (height, width), (*clip, 1)[0]
        self.normalization = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.origin, self.build = f"ONNX {folder}", None
        self.depth, self.num_heads, self.num_prefix_tokens = 0, (), 0
        self.taps = frozenset({"logits"}) if "logits" in self.outputs else frozenset()
        self.width = int(self._session.get_outputs()[-1].shape[-1])
        # Nothing to train; callers look at a parameter for the type and the device of pictures.
        self.like = nn.Parameter(torch.zeros(1), requires_grad=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnnxBackbone":
        """A session cannot be copied, and is never changed."""
        other = OnnxBackbone(self.folder)
        other.image_size = self.image_size
        return other

    def resize(self, image_size: ImageSize) -> None:
        """See pictures of another size.

        Raises:
            ValueError: the file takes one size alone.
        """
        if not self.free:
            raise ValueError("this file takes pictures of its own size alone")
        self.image_size = height_width(image_size)

    def output(self, name: str, pixels: Float[Tensor, "b 3 *size"]) -> Tensor:
        """One of its outputs.

        Raises:
            UserError: it has no such one.
        """
        if name not in self.outputs:
            what = "class scores" if name == "logits" else "features"
            raise UserError(
                f"{self.folder} gives no {what}, but {' and '.join(self.outputs)}: export the "
                f"{'fine-tuned model' if name == 'logits' else 'backbone without its head'}"
            )
        (found,) = self._session.run([name], {"pixels": pixels.detach().float().cpu().numpy()})
        return torch.from_numpy(found).to(pixels.device)

    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        return {tap: self.output(str(tap.kind), images) for tap in taps}

    def pooled(
        self, images: Float[Tensor, "b 3 *size"], pool: Literal["avg", "cls"] = "avg"
    ) -> Float[Tensor, "b d"]:
        return self.output("pooled", images)
