"""Models of the transformers library as backbones: from a folder, the hub or a configuration.

Transformers are read by hooks, whose names are found and then checked on a picture; anything that
pools a last feature map as a CNN. Weights come from safetensors only, code from nowhere.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vistill.errors import UserError, first_line
from vistill.files import near_path
from vistill.image_size import ImageSize, height_width, nearest_fitting, shown_size
from vistill.models.adapters.admission import admit, first_admitted, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone, part_of
from vistill.models.adapters.processors import ChannelOrder, Shown, shown_by_processor
from vistill.models.backbone import Backbone, Normalization
from vistill.models.files.clip import CLIP_NORMALIZATION
from vistill.models.files.videomae import vit_of_transformers
from vistill.models.quiet import HUB, quiet
from vistill.models.taps import Own
from vistill.tokens.patches import pixel_patches

_HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What the library's image processors of a family do where a folder has none; others as ImageNet.
_NORMALIZATIONS = {
    "clip": CLIP_NORMALIZATION,
    "siglip": _HALF,
    "siglip2": _HALF,
    "vit": _HALF,
    "beit": _HALF,
}
_BLOCKS = ("layers", "encoder.layers", "encoder.layer", "model.layer", "layer")
_NORMS = ("layernorm", "norm", "post_layernorm", "rms_norm")
_POOL_NORMS = ("pooler.layernorm",)
_ATTENTION = ("layer_scale1", "attention*lambda_1", "attention", "self_attn")
_SECOND_NORM = ("layernorm_after", "norm2", "layer_norm2", "rms_norm2")
_MLP = ("layer_scale2", "mlp*lambda_2", "mlp", "output", "ffn")
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
_QKV = ("attention", "self_attn")


def transformers_backbone(
    name: str,
    *,
    weights: Literal["none", "own", "pretrained"],
    image_size: ImageSize | None,
    classifier: bool = False,
) -> Backbone:
    """Build a model from a local folder or by its name on the hub.

    Args:
        name: a folder with `config.json`, or a name on the hub.
        weights: `none` are loaded, a folder's `own` where it has them, or they must be there
            (`pretrained`; may download).
        image_size: side of the inputs, or (height, width); None: the model's own.
        classifier: keep the classifier, for the `logits` tap.

    Raises:
        UserError: there is no such model, it is none of pictures, or its weights do not fit.
    """
    _require_library()
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise UserError(f"there is no folder {name}{near_path(folder)}")
    if local and not (folder / "config.json").is_file():
        raise UserError(f"{name} holds no config.json, so it is no model of transformers")
    stored = local and any(folder.glob("*.safetensors"))
    pickled = local and any(folder.glob("pytorch_model*"))
    if local and not stored and (weights == "pretrained" or (weights == "own" and pickled)):
        why = ", only pickled ones, which are never read" if pickled else ""
        raise UserError(f"{name} holds no weights as model.safetensors{why}")
    source = str(folder.absolute()) if local else name
    with quiet(HUB), _quiet():
        config = _config(source, name)
        kind = _class_of(config, name, classifier)
        config = config if classifier else _of_pictures(config)
        channels = _num_channels(config, name)
        load = weights == "pretrained" or (weights == "own" and stored)
        if load:
            module = _load(kind, config, source, name)
        else:
            with in_one_sentence(f"hf/{name}, a {config.model_type}, cannot be built"):
                module = kind(config, **_poolers(kind, config)[0])
        shown = shown_by_processor(source, name, channels) or _usual(config)
    found = f"of {source}" if local else "published weights"
    backbone = _adapt(module, name, image_size, shown, classifier)
    backbone.origin = f"hf/{source}, {found if load else 'random'}"
    backbone.untrained = not load
    if load:
        backbone.pool_itself()
    return backbone


def transformers_from_config(
    config: dict[str, Any],
    image_size: ImageSize | None,
    classifier: bool,
    channels: ChannelOrder = "rgb",
    pooler: bool = False,
) -> Backbone:
    """The architecture that a backbone's `build` describes, with fresh weights."""
    _require_library()
    from transformers import CONFIG_MAPPING

    settings = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    kind = _class_of(settings, config["model_type"], classifier)
    module = kind(settings, **_poolers(kind, settings)[0 if pooler else -1])
    shown = _usual(settings)._replace(channels=channels)
    backbone = _adapt(module, config["model_type"], image_size, shown, classifier)
    backbone.origin, backbone.untrained = "random", True
    return backbone


class TransformersBackbone(ModuleBackbone):
    """A transformer of the library; other sizes where it can interpolate its positions."""

    def resize(self, image_size: ImageSize) -> None:
        """Accept another input size.

        Raises:
            ValueError: the model cannot.
        """
        before = self.image_size
        self.image_size = height_width(image_size)
        try:
            _require_multiple(_of_pictures(self.module.config), self.image_size)
            admit(self, self.own)
        except UserError as error:
            self.image_size = before
            raise ValueError(str(error)) from error

    def own(self, images: Tensor) -> Own:
        """What the library itself makes of pictures."""
        return _own(self.call(images))

    def call(self, images: Tensor) -> Any:
        """A whole forward pass, positions interpolated where the size asks for it."""
        config: Any = self.module.config
        config, size = _of_pictures(config), tuple(images.shape[-2:])
        if config.model_type == "siglip2_vision_model":  # takes patches, and resizes by itself
            grid = torch.tensor([[side // config.patch_size for side in size]] * len(images))
            patches = pixel_patches(images, config.patch_size)
            return self.module(patches, pixel_attention_mask=None, spatial_shapes=grid)
        takes = "interpolate_pos_encoding" in inspect.signature(self.module.forward).parameters
        other = takes and size != _image_size(config)
        return self.module(images, **({"interpolate_pos_encoding": True} if other else {}))


def _own(output: Any) -> Own:
    tokens, pooled = (
        getattr(output, name, None) for name in ("last_hidden_state", "pooler_output")
    )
    return Own(*(value if isinstance(value, Tensor) else None for value in (tokens, pooled)))


def _require_library() -> None:
    if find_spec("transformers") is None:
        raise UserError("hf/ models need an extra: pip install 'vistill[teachers]'")


@contextmanager
def _quiet() -> Iterator[None]:
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


def _config(source: str, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"hf/{name} cannot be had: {first_line(error)}") from error


def _of_pictures(config: Any) -> Any:
    """The part of a model of pictures and text that sees."""
    return getattr(config, "vision_config", config)


def _class_of(config: Any, name: str, classifier: bool) -> Any:
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    if classifier:
        found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
        if found is None:
            raise UserError(f"transformers has no classifier for hf/{name}, a {config.model_type}")
        several = found if isinstance(found, tuple) else (found,)
        written = config.architectures or ()
        return next((kind for kind in several if kind.__name__ in written), several[0])
    kind: Any = MODEL_MAPPING.get(type(_of_pictures(config)), None)
    if kind is None or not kind.main_input_name.startswith("pixel_values"):
        raise UserError(
            f"hf/{name} is a {config.model_type}, which takes no pictures, or not alone"
        )
    frames = any(hasattr(_of_pictures(config), name) for name in ("num_frames", "frames_per_clip"))
    if frames and config.model_type != "videomae":
        raise UserError(
            f"hf/{name} is a {config.model_type}, which takes clips in a way of its own; of clips "
            "vistill reads the models of VideoMAE and AMD"
        )
    return kind


def _poolers(kind: Any, config: Any) -> list[dict[str, bool]]:
    """How to build it: with its pooling layer where that is the norm of a mean (BEiT) and the
    weights have it, else without what only a classifier would need."""
    takes = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    if not ("Model" in kind.__name__ and takes):
        return [{}]
    return [{}] * bool(getattr(config, "use_mean_pooling", False)) + [{"add_pooling_layer": False}]


def _load(kind: Any, config: Any, source: str, name: str) -> nn.Module:
    for pooler in _poolers(kind, config):
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


def _usual(config: Any) -> Shown:
    """What the image processors of a family do, where a folder has none."""
    family = config.model_type.removesuffix("_vision_model")
    usual = _NORMALIZATIONS.get(family, Normalization())
    if _num_channels(config, family) == 1:  # of the mean of three channels
        usual = Normalization((fmean(usual.mean),) * 3, (fmean(usual.std),) * 3)
    return Shown(usual, "rgb", None)


def _num_channels(config: Any, name: str) -> int:
    """Channels of the pictures that a model takes: 3, or 1, to which the mean of three is shown."""
    channels = getattr(_of_pictures(config), "num_channels", 3)
    if channels not in (1, 3):
        raise UserError(
            f"hf/{name} takes pictures of {channels} channels; vistill shows red, green and blue, "
            "or their mean to a model of one channel"
        )
    return channels


def _as_the_module_sees(
    grey: bool, flipped: bool, _: nn.Module, images: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Normalised red, green and blue as a grey picture, or in the opposite order."""
    pixels, *others = images
    if grey:
        pixels = pixels.mean(dim=1, keepdim=True)
    return (pixels.flip(1) if flipped else pixels, *others)


def _adapt(
    module: Any, name: str, image_size: ImageSize | None, shown: Shown, classifier: bool
) -> Backbone:
    config = module.config
    arguments: dict[str, Any] = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "classifier": classifier,
        "channels": shown.channels,
        "pooler": getattr(module, "pooler", None) is not None,
    }
    if config.model_type == "videomae":
        with in_one_sentence(f"hf/{name} cannot be read"):
            backbone: Any = vit_of_transformers(module, shown.normalization)
        if image_size is not None and backbone.image_size != height_width(image_size):
            try:
                backbone.resize(image_size)
            except ValueError as error:
                raise UserError(f"hf/{name}: {error}") from error
        return backbone
    grey, flipped = _num_channels(config, name) == 1, shown.channels == "bgr"
    if grey or flipped:
        module.register_forward_pre_hook(partial(_as_the_module_sees, grey, flipped))
    if image_size is not None:
        sizes = [height_width(image_size)]
    else:
        built_for = _image_size(_of_pictures(config))
        sizes = list(dict.fromkeys([shown.size or built_for, built_for]))
    common: dict[str, Any] = {
        "logits": classifier,
        "normalization": shown.normalization,
        "build": {"name": "hf", "args": arguments},
    }
    blocks = _blocks(module)
    ways: list[Callable[[], Backbone]] = []
    if blocks is not None:
        ways += [partial(_hooked, module, blocks, size, common) for size in sizes]
    ways += [partial(_pooled, module, size, common) for size in sizes]
    backbone = first_admitted(f"hf/{name}, a {config.model_type},", ways)
    arguments["image_size"] = list(backbone.image_size)
    return backbone


class _Blocks(NamedTuple):
    """Where the blocks of a transformer are: a prefix of names, theirs, and whether in stages."""

    prefix: str
    names: list[str]
    staged: bool


def _blocks(module: Any) -> _Blocks | None:
    places = dict(module.named_modules())
    prefixes = ("", f"{module.base_model_prefix}.", "vision_model.")
    trees = [(p, f"{p}{b}") for p in prefixes for b in _BLOCKS if f"{p}{b}" in places]
    if not trees or not isinstance(places[trees[0][1]], nn.ModuleList):
        return None
    prefix, tree = trees[0]
    names = [f"{tree}.{i}" for i in range(len(places[tree]))]
    staged = isinstance(getattr(places[names[0]], "blocks", None), nn.ModuleList)
    if staged:
        names = [f"{n}.blocks.{i}" for n in names for i in range(len(places[n].blocks))]
    return _Blocks(prefix, names, staged)


def _hooked(
    module: Any, blocks: _Blocks, size: tuple[int, int], common: dict[str, Any]
) -> TransformersBackbone:
    """The adapter of a module that has blocks of tokens."""
    config, places = module.config, dict(module.named_modules())
    block = places[blocks.names[0]]
    if config.model_type == "vit_mae":
        places["embeddings"].random_masking = _all_in_order
    sees = _of_pictures(config)
    heads: Any = getattr(sees, "num_attention_heads", 0)
    if blocks.staged and len(config.num_heads) == len(config.depths):
        heads = [n for n, d in zip(config.num_heads, config.depths, strict=True) for _ in range(d)]
    classed = any(name.endswith(_CLASS_TOKENS) for name, _ in module.named_parameters())
    backbone = TransformersBackbone(
        module,
        blocks=blocks.names,
        width=getattr(sees, "hidden_size", 0),
        image_size=size,
        num_heads=heads if isinstance(heads, int | list) else 0,
        num_prefix_tokens=int(classed),
        class_token=classed,
        norm=_named(places, blocks.prefix, _NORMS),
        pool_norm=_named(places, blocks.prefix, _POOL_NORMS),
        attention=part_of(block, *_ATTENTION),
        attention_residual=part_of(block, *_SECOND_NORM),
        mlp=part_of(block, *_MLP),
        qkv=part_of(block, *_QKV),
        **common,
    )
    _require_multiple(sees, size)
    admit(backbone, backbone.own)
    backbone.pools_after_norm = blocks.staged
    return backbone


def _named(places: dict[str, Any], prefix: str, names: Sequence[str]) -> str | None:
    return next((f"{prefix}{name}" for name in names if f"{prefix}{name}" in places), None)


def _require_multiple(config: Any, size: tuple[int, int]) -> None:
    patch = getattr(config, "patch_size", 1)
    patch = height_width(patch) if isinstance(patch, int | list | tuple) else (1, 1)
    if any(side % part for side, part in zip(size, patch, strict=True)):
        near = f"; {nearest_fitting(size, patch[0])} would do" if patch[0] == patch[1] else ""
        raise UserError(
            f"{shown_size(size)} pixels are no multiple of its patches of {shown_size(patch)}{near}"
        )


def _pooled(module: Any, size: tuple[int, int], common: dict[str, Any]) -> PooledBackbone:
    """The adapter of a module that makes a feature map."""
    backbone = PooledBackbone(module, image_size=size, **common)
    admit(backbone, partial(_run, module))
    return backbone


def _run(module: Any, images: Tensor) -> Own:
    return _own(module(images))


def _all_in_order(tokens: Tensor, noise: Tensor | None = None) -> tuple[Tensor, None, None]:
    """Instead of MAE's random masking, which also shuffles: every token at its place."""
    return tokens, None, None


def _image_size(config: Any) -> tuple[int, int]:
    """The side that a model was built for; SigLIP2 knows the number of its patches."""
    if hasattr(config, "num_patches"):
        return height_width(round(config.num_patches**0.5) * config.patch_size)
    return height_width(getattr(config, "image_size", 224))
