"""What is asked of the transformers library: a configuration, its class, a module with weights."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from vistill.errors import UserError, first_line
from vistill.models.adapters.processors import Shown
from vistill.models.backbone import Normalization
from vistill.models.files.clip import CLIP_NORMALIZATION

_HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What the library's image processors of a family do where a folder has none; others as ImageNet.
_NORMALIZATIONS = {
    "clip": CLIP_NORMALIZATION,
    "siglip": _HALF,
    "siglip2": _HALF,
    "vit": _HALF,
    "beit": _HALF,
}


def require_library() -> None:
    """Raise a UserError where the library is not installed."""
    if find_spec("transformers") is None:
        raise UserError("hf/ models need an extra: pip install 'vistill[teachers]'")


@contextmanager
def without_remarks() -> Iterator[None]:
    """Without the library's remarks on parts that are left aside: what matters is checked here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def read_config(source: str, name: str) -> Any:
    """The configuration of a folder or of a model on the hub.

    Raises:
        UserError: there is none, or the library does not know it.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"hf/{name} cannot be had: {first_line(error)}") from error


def of_pictures(config: Any) -> Any:
    """The part of a model of pictures and text that sees."""
    return getattr(config, "vision_config", config)


def class_of(config: Any, name: str, classifier: bool) -> Any:
    """The library's class for a configuration: of its part that sees, or of its classifier.

    Raises:
        UserError: there is none, or it takes something else than pictures.
    """
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    if classifier:
        found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
        if found is None:
            raise UserError(f"transformers has no classifier for hf/{name}, a {config.model_type}")
        several = found if isinstance(found, tuple) else (found,)
        written = config.architectures or ()
        return next((kind for kind in several if kind.__name__ in written), several[0])
    kind: Any = MODEL_MAPPING.get(type(of_pictures(config)), None)
    if kind is None or not kind.main_input_name.startswith("pixel_values"):
        raise UserError(
            f"hf/{name} is a {config.model_type}, which takes no pictures, or not alone"
        )
    frames = any(hasattr(of_pictures(config), name) for name in ("num_frames", "frames_per_clip"))
    if frames and config.model_type != "videomae":
        raise UserError(
            f"hf/{name} is a {config.model_type}, which takes clips in a way of its own; of clips "
            "vistill reads the models of VideoMAE and AMD"
        )
    return kind


def poolers(kind: Any, config: Any) -> list[dict[str, bool]]:
    """How to build it: with its pooling layer where that is the norm of a mean (BEiT) and the
    weights have it, else without what only a classifier would need."""
    takes = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    if not ("Model" in kind.__name__ and takes):
        return [{}]
    return [{}] * bool(getattr(config, "use_mean_pooling", False)) + [{"add_pooling_layer": False}]


def load_module(kind: Any, config: Any, source: str, name: str) -> nn.Module:
    """A module with its weights, which have to be whole.

    Raises:
        UserError: they cannot be loaded, or some are missing.
    """
    for pooler in poolers(kind, config):
        try:
            module, report = kind.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **pooler,
            )
        except Exception as error:
            raise UserError(
                f"the weights of hf/{name} could not be loaded: {first_line(error)}"
            ) from error
        missing = sorted(report["missing_keys"])
        if not missing or not all("pooler." in key for key in missing):
            break
    if missing:
        raise UserError(
            f"hf/{name} holds no weights of a {kind.__name__}: {', '.join(missing[:3])} "
            f"{f'and {len(missing) - 3} more ' if len(missing) > 3 else ''}missing"
        )
    return module


def projection_of(config: Any, source: str, load: bool) -> Tensor | None:
    """`[D, C]`: what CLIP's tower has behind its final norm and pooling; None where there is none.

    The library builds the tower without it, so that a folder's weights are read once more.
    """
    if config.model_type != "clip_vision_model":
        return None
    from transformers import CLIPVisionModelWithProjection

    kind: Any = CLIPVisionModelWithProjection
    if not load:
        return kind(config).visual_projection.weight.T
    module, report = kind.from_pretrained(
        source, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    return None if report["missing_keys"] else module.visual_projection.weight.T


def usual_processing(config: Any) -> Shown:
    """What the image processors of a family do, where a folder has none."""
    family = config.model_type.removesuffix("_vision_model")
    usual = _NORMALIZATIONS.get(family, Normalization())
    if num_channels(config, family) == 1:  # of the mean of three channels
        usual = Normalization((fmean(usual.mean),) * 3, (fmean(usual.std),) * 3)
    return Shown(usual, "rgb", None)


def num_channels(config: Any, name: str) -> int:
    """Channels of the pictures that a model takes: 3, or 1, to which the mean of three is shown."""
    channels = getattr(of_pictures(config), "num_channels", 3)
    if channels not in (1, 3):
        raise UserError(
            f"hf/{name} takes pictures of {channels} channels; vistill shows red, green and blue, "
            "or their mean to a model of one channel"
        )
    return channels


def as_the_module_sees(
    grey: bool, flipped: bool, _: nn.Module, images: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Normalised red, green and blue as a grey picture, or in the opposite order."""
    pixels, *others = images
    if grey:
        pixels = pixels.mean(dim=1, keepdim=True)
    return (pixels.flip(1) if flipped else pixels, *others)
