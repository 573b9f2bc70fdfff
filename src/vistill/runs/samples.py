"""How a trained model looks at samples: opening them, and clips as it was trained on them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vistill.config.clip_recipes import ClipSettings, clip_settings
from vistill.config.samples import CLIP_KEYS, SamplesConfig
from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.runs.results import say_notes

if TYPE_CHECKING:
    from vistill.data import Source
    from vistill.models.backbone import Backbone

S = TypeVar("S", bound=SamplesConfig)


def open_samples(config: SamplesConfig, path: str, media: Literal["image", "video"]) -> "Source":
    """The pictures or clips at `path`; what is left out of them is told.

    Raises:
        UserError: there are none, or none can be read.
    """
    from vistill.data import Decoding, open_source, require_readable

    decoding = Decoding(config.value_range, config.allow_truncated)
    source = open_source(path, media, root=config.root, decoding=decoding)
    say_notes(path, source.notes)
    if media == "image":
        say_notes(path, require_readable(source, section=""))
    return source


def source_of_files(name: str, pictures: Sequence[Path], config: SamplesConfig) -> "Source":
    """The pictures in these files, in their order, as a source that is called `name`."""
    from vistill.data import Decoding
    from vistill.evaluation.segmentation.layouts import PairSource

    source = PairSource(name, pictures)
    source.decoding = Decoding(config.value_range, config.allow_truncated)
    return source


def clips_of(
    config: SamplesConfig, model: "Backbone", reference: str, recipe: str
) -> ClipSettings | None:
    """How clips are taken from videos; None for a backbone of pictures.

    Raises:
        UserError: a setting of clips is given for a backbone of pictures.
    """
    given = {key: getattr(config, key) for key in CLIP_KEYS if key in config.model_fields_set}
    if model.num_frames == 1:
        for key, value in given.items():
            raise UserError(f"{key}={value} is for clips, and {model.origin} takes pictures")
        return None
    for key in ("value_range", "allow_truncated"):
        if getattr(config, key):
            raise UserError(f"{key} is about pictures, and {model.origin} takes clips")
    trained = trained_on(reference)
    return clip_settings(recipe, trained=trained, **{"frames": model.num_frames} | given)


def trained_on(reference: str) -> dict[str, Any]:
    """How samples were read for a fine-tuned model, or for the run that a backbone comes from."""
    kind, _, path = reference.partition(":")
    if kind != "run":
        return {}
    for name in ("model.json", "onnx.json"):
        description = Path(path) / name
        if not description.is_file():
            continue
        told = json.loads(description.read_text(encoding="utf-8"))
        if "clips" in told or "value_range" in told:
            return {**told.get("clips", {}), "value_range": told.get("value_range")}
    for folder in (Path(path), Path(path).parent.parent):
        config = folder / "config.yaml"
        if config.is_file():
            settings = load_yaml(config.read_text(encoding="utf-8"), str(config))
            return dict(settings.get("data", {}))
    return {}


def as_trained(config: S, reference: str) -> S:
    """The settings, with the range of values of the pictures that a model was trained on where they
    say none."""
    trained = trained_on(reference).get("value_range") if config.value_range is None else None
    if not trained:
        return config
    say_notes(reference, [f"value_range={trained}, as it was trained"])
    return config.model_copy(update={"value_range": tuple(trained)})
