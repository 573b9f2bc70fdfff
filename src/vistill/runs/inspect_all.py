"""`inspect`, from models and samples to what it tells."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.config.inspect import InspectConfig
from vistill.errors import UserError
from vistill.runs.inspecting import inspect_layers, open_all, warn_of_untold
from vistill.runs.inspection import InspectResult
from vistill.runs.inspection_page import FILES, WORST, write_inspection
from vistill.runs.loss_landscape import landscape
from vistill.runs.reference import require_different
from vistill.runs.regions import by_region

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 64
"""Pictures that tell in which regions two models differ, besides the worst."""


def inspect_all(
    config: InspectConfig, models: Sequence[Any], data: str, out: Path | None, *, around: bool
) -> InspectResult:
    """Look inside every model, and compare the first with the others.

    Args:
        config: how samples are read, and how many.
        models: references or backbones.
        data: pictures, or clips for models of clips.
        out: folder for numbers and page; None: nothing is written.
        around: also the loss around the weights of classifiers.

    Raises:
        UserError: something that does not go together, before any work where it can be known.
    """
    import torch

    from vistill.analysis.layers import agreement, by_class, cka

    if not models:
        raise UserError("inspect needs a model: give a run folder, file:PATH or timm/NAME")
    require_different("inspect", models)
    if "landscape" in config.model_fields_set and not around:
        raise UserError("landscape settings have no use without --landscape")
    if out is not None:
        _require_own(out)
    opened = [open_all(config, model, data) for model in models]
    first_frames, *other_frames = ((one.config.frames is None) for one in opened)
    if any(one != first_frames for one in other_frames):
        raise UserError("inspect compares models of pictures, or models of clips, not both at once")
    landscapes = [landscape(one) for one in opened] if around else []
    found = [inspect_layers(one) for one in opened]
    for one in found:
        warn_of_untold(one)
    first, *others = found
    alike: dict[str, Tensor] = {}
    agreed: dict[str, tuple[Tensor, list[str]]] = {}
    classes: dict[str, list[tuple[str, float, int]]] = {}
    regions: dict[str, tuple[list[int], Tensor]] = {}
    source = opened[0].source
    for place, other in enumerate(others, start=1):
        both = torch.isin(first.ids, other.ids), torch.isin(other.ids, first.ids)
        ids = first.ids[both[0]]
        if len(ids) < 4:
            continue
        ours, theirs = ([one[rows] for one in model.features]
                        for model, rows in zip((first, other), both, strict=True))  # fmt: skip
        alike[other.name] = cka([*ours, *theirs])[: len(ours), len(ours) :]
        values = agreement(ours[-1], theirs[-1])
        agreed[other.name] = values, [source.sample_name(i) for i in ids.tolist()]
        classes[other.name] = by_class(values, first.labels[both[0]], source.classes or [])
        few = ids[torch.cat([torch.arange(len(ids))[:_FEW], values.argsort()[:WORST]]).unique()]
        maps = by_region(opened[0], opened[place], few.numpy())
        if maps is not None:
            regions[other.name] = few.tolist(), maps
    noun = source.media.noun
    result = InspectResult(found, alike, agreed, regions, classes, landscapes, noun)
    if out is None:
        return result
    write_inspection(result, opened, out)
    return replace(result, out=out)


def _require_own(out: Path) -> None:
    """Refuse a file, and a folder of other files."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder to write to")
    other = sorted(file.name for file in out.glob("*") if file.name not in FILES)
    if other:
        raise UserError(
            f"{out} holds other files, such as {other[0]}; name a new folder, or one that inspect "
            "wrote to before"
        )
