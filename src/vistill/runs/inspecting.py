"""Looking inside models: attention and tokens of every layer, one model beside the other."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vistill.config.inspect import InspectConfig
from vistill.errors import UserError
from vistill.runs.looking import drawn, looked_at, taking
from vistill.runs.reference import backbone_reference, name_of, require_trained
from vistill.runs.results import say, say_notes
from vistill.runs.samples import clips_of, open_samples

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vistill.analysis.attention import AttentionFigures, Places
    from vistill.analysis.layers import Spectrum
    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.models.backbone import Backbone

COMPARED = 512
"""Of so many pictures or clips features are kept, to compare layers and models by."""


@dataclass(frozen=True)
class Inspected:
    """One model.

    Attributes:
        name: as the user wrote it.
        seen: how many pictures or clips.
        blocks: numbers of the layers, from 1.
        attention: of each layer; None where nothing could be watched.
        spectra: of each layer's tokens.
        features: mean tokens of some pictures, `[n, D]`, of each layer.
        ids, labels: which pictures these are, and their classes, -1 where unknown.
        broken: what cannot be read, and why.
    """

    name: str
    seen: int
    blocks: list[int]
    attention: "list[AttentionFigures | None]"
    spectra: "list[Spectrum]"
    features: "list[Tensor]"
    ids: "Tensor"
    labels: "Tensor"
    broken: dict[str, str] = field(default_factory=dict)


def open_all(config: InspectConfig, reference: Any, data: str) -> "Opened":
    """A model, the samples that it takes, and which of them are looked at.

    Raises:
        UserError: there is no such model, nobody trained it, or there is nothing to look at.
    """
    from vistill.models.build import load_backbone

    found = backbone_reference(reference)
    size = config.image_size if isinstance(found, str) else None
    backbone = load_backbone(found, image_size=size).eval()
    require_trained(backbone, reference)
    clips = clips_of(config, backbone, found if isinstance(found, str) else "an object", "")
    source = open_samples(config, data, "image" if clips is None else "video")
    samples = drawn(source, config.pictures, config.seed)
    return Opened(name_of(reference), found, backbone, source, samples, taking(config, clips))


@dataclass(frozen=True)
class Opened:
    """What `open_all` found.

    Attributes:
        name: of the model, as the user wrote it.
        reference: the same as it is read.
        backbone: its model.
        source: of all samples.
        samples: positions of those that are looked at.
        config: how they are read.
    """

    name: str
    reference: Any
    backbone: "Backbone"
    source: "Source"
    samples: "np.ndarray"
    config: InspectConfig


def inspect_layers(opened: Opened) -> Inspected:
    """Attention and tokens of every layer, in one pass over the samples.

    Raises:
        UserError: the model has neither blocks nor a map.
    """
    import torch

    from vistill.analysis.attention import AttentionStatistics
    from vistill.analysis.layers import spectrum
    from vistill.models.attention_maps import hear_attention
    from vistill.models.backbone import Tap
    from vistill.targets.moments import Moments

    backbone = opened.backbone
    kind = "block" if "block" in backbone.taps else "map" if "map" in backbone.taps else None
    if kind is None:
        raise UserError(f"{opened.name} shows neither blocks nor a map of features")
    blocks = list(range(1, backbone.depth + 1)) if kind == "block" else [1]
    taps = [Tap(kind, number) for number in blocks]  # type: ignore[arg-type]
    prefix = backbone.num_prefix_tokens
    moments: list[Moments] = []
    attention: dict[int, AttentionStatistics] = {}
    kept: list[list[Tensor]] = [[] for _ in blocks]

    def compute(batch: "Batch") -> "Tensor":
        images = backbone.normalization(batch.unit_pixels())

        def hear(number: int, maps: "Tensor") -> None:
            if number not in attention:
                places = places_of(backbone, maps.shape[-1], len(maps) / len(images))
                attention[number] = AttentionStatistics(places)
            attention[number].add(maps)

        found = hear_attention(backbone, images, hear, taps)
        room = COMPARED - sum(map(len, kept[0]))
        for place, tap in enumerate(taps):
            tokens = found[tap]
            tokens = tokens.flatten(2).mT if tokens.dim() == 4 else tokens[:, prefix:]
            if place == len(moments):
                moments.append(Moments(tokens.shape[2]))
            moments[place].add(tokens.flatten(0, 1))
            if room > 0:
                kept[place].append(tokens[:room].mean(dim=1).float().cpu())
        return torch.zeros(len(images), 1)

    say(f"inspecting {opened.name}")
    seen = looked_at(opened.config, backbone, compute, opened.source, opened.samples)
    return Inspected(
        opened.name,
        len(seen.ids),
        blocks,
        [attention[number].figures() if number in attention else None for number in blocks],
        [spectrum(one) for one in moments],
        [torch.cat(parts) for parts in kept],
        seen.ids[:COMPARED],
        seen.labels[:COMPARED],
        dict(seen.broken),
    )


def places_of(backbone: "Backbone", tokens: int, maps: float) -> "Places":
    """Where the tokens of a map lie.

    Args:
        backbone: of the map.
        tokens: in it.
        maps: for each picture, more than one where attention stays within windows.
    """
    from vistill.analysis.attention import Places
    from vistill.models.grids import token_grid

    height, width = backbone.image_size
    if maps > 1:
        side = round(tokens**0.5)
        pitch = (height * width / (maps * tokens)) ** 0.5
        grid = (side, side) if side * side == tokens else (1, tokens)
        return Places(1, grid, (pitch, pitch), 0)
    prefix = backbone.num_prefix_tokens
    slots = int(getattr(backbone, "slots", 1))
    patches = (tokens - prefix) // slots
    grid = token_grid(patches, backbone.image_size) or (1, patches)
    return Places(slots, grid, (height / grid[0], width / grid[1]), prefix)


def warn_of_untold(inspected: Inspected) -> None:
    """Say which layers' attention could not be watched."""
    silent = [n for n, one in zip(inspected.blocks, inspected.attention, strict=True) if not one]
    if len(silent) == len(inspected.blocks):
        say_notes(inspected.name, ["no attention over its tokens could be watched"])
    elif silent:
        say_notes(inspected.name, [f"no attention could be watched in blocks {silent}"])
