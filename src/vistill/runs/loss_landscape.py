"""The loss of a classifier, or of a pre-training, around its weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vistill.errors import UserError
from vistill.runs.inspecting import Opened
from vistill.runs.looking import looked_at
from vistill.runs.reference import run_of
from vistill.runs.results import say
from vistill.runs.run_loss import pretraining_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vistill.analysis.landscape import Measure
    from vistill.batch import Batch

_AT_ONCE = 64


@dataclass(frozen=True)
class Landscape:
    """Around the weights of one model.

    Attributes:
        name: of the model.
        lengths: of the noise, in lengths of the weights.
        loss: `[directions, lengths]`, cross-entropy or that of the pre-training.
        accuracy: the same in percent, of a classifier.
        plane: loss in the plane of the first two directions, or None.
        flatness: mean increase of the loss up to half a length.
    """

    name: str
    lengths: list[float]
    loss: "Tensor"
    accuracy: "Tensor | None"
    plane: "Tensor | None"
    flatness: float

    def __str__(self) -> str:
        middle = len(self.lengths) // 2
        text = (
            f"{self.name}: loss {float(self.loss[:, middle].mean()):.3f}, "
            f"+{self.flatness:.3f} on average up to half a length of noise"
        )
        if self.accuracy is None:
            return text
        own, far = (float(self.accuracy[:, at].mean()) for at in ([middle], [0, -1]))
        return f"{text}; accuracy {own:.1f} %, {far:.1f} % at {self.lengths[-1]:g}"

    def told(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "name": self.name,
            "lengths": self.lengths,
            "loss": self.loss.tolist(),
            "accuracy": None if self.accuracy is None else self.accuracy.tolist(),
            "plane": None if self.plane is None else self.plane.tolist(),
            "flatness": self.flatness,
        }


def landscape(opened: Opened) -> Landscape:
    """The loss under noise that is scaled filter by filter: of a model with its head, with the
    accuracy; of a run without one, that of its pre-training, on its student's weights.

    Raises:
        UserError: neither can be had, or the pictures have no labels that the head knows.
    """
    import torch

    from vistill.analysis.landscape import curve, flatness, gaussian, plane, scaled
    from vistill.evaluation.saved_classifier import find_head

    run = run_of(opened.reference, tells="config.yaml")
    model: nn.Module
    measure: Measure
    began = run is not None and (run / "checkpoints").is_dir()
    if run is not None and began and find_head(opened.reference) is None:
        model, loss, _ = pretraining_loss(opened, run)

        def measure(_: "nn.Module") -> tuple[float, float]:
            return loss(), math.nan

    else:
        model, measure = _classified(opened)
    told = opened.config.landscape
    count = told.points + 1 - told.points % 2  # with the weights themselves in the middle
    lengths = torch.linspace(-told.reach, told.reach, count, dtype=torch.float64).tolist()
    directions, curves = [], []
    for number in range(max(told.directions, 2 if told.plane else 1)):
        say(f"landscape of {opened.name}: direction {number + 1} of {told.directions}")
        directions.append(scaled(model, gaussian(model, opened.config.seed * 1000 + number)))
        if number < told.directions:
            curves.append(curve(model, measure, directions[-1], lengths))
    around = torch.stack(curves)
    seen = None
    if told.plane:
        seen = plane(model, measure, (directions[0], directions[1]), lengths)[0]
    flat = flatness(lengths, around[:, 0].mean(dim=0))
    accuracy = around[:, 1] if around[:, 1].isfinite().all() else None
    return Landscape(opened.name, lengths, around[:, 0], accuracy, seen, flat)


def _classified(opened: Opened) -> "tuple[nn.Module, Measure]":
    """A model with its head, and its cross-entropy and accuracy on the labelled samples."""
    import torch
    import torch.nn.functional as F

    from vistill.evaluation.trained import trained_classifier

    config, source = opened.config, opened.source
    model = trained_classifier(opened.backbone, opened.reference, frames=config.frames)
    if source.labels is None or source.classes is None:
        raise UserError(f"a landscape needs labels, and '{source.name}' has none")
    numbers = {name: i for i, name in enumerate(model.classes)}
    unknown = [name for name in source.classes if name not in numbers]
    if len(unknown) == len(source.classes):
        raise UserError(
            f"{opened.name} knows none of the classes of '{source.name}', such as {unknown[0]!r}; "
            f"it knows {', '.join(model.classes[:3])} and others"
        )
    own = torch.tensor([numbers.get(name, -1) for name in source.classes])
    known = own[torch.from_numpy(source.labels)].numpy() >= 0
    asked = opened.samples[known[opened.samples] & (source.labels[opened.samples] >= 0)]
    pixels: list[Tensor] = []

    def keep(batch: "Batch") -> "Tensor":
        pixels.append(batch.unit_pixels())
        return torch.zeros(len(batch), 1)

    found = looked_at(config, opened.backbone, keep, source, asked[: config.landscape.pictures])
    every, labels = torch.cat(pixels), own[found.labels].to(pixels[0].device)
    model.to(every.device).eval()

    def parts() -> "Iterator[tuple[Tensor, Tensor]]":
        for start in range(0, len(every), _AT_ONCE):
            yield every[start : start + _AT_ONCE], labels[start : start + _AT_ONCE]

    @torch.no_grad()
    def measure(moved: "nn.Module") -> tuple[float, float]:
        loss = right = 0.0
        for unit, wanted in parts():
            scores = moved(unit).double()
            loss += float(F.cross_entropy(scores, wanted, reduction="sum"))
            right += float((scores.argmax(dim=1) == wanted).sum())
        return loss / len(every), 100 * right / len(every)

    return model, measure
