"""Models of the transformers library as backbones: from a folder, the hub or a configuration.

Transformers are read by hooks, whose names are found and then checked on a picture; anything that
pools a last feature map as a CNN. Weights come from safetensors only, code from nowhere.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.files import near_path
from vistill.image_size import ImageSize, height_width, nearest_fitting, shown_size
from vistill.models.adapters.admission import admit, first_admitted, in_one_sentence
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.adapters.any_transformer import ModuleBackbone, part_of
from vistill.models.adapters.processors import ChannelOrder, Shown, shown_by_processor
from vistill.models.adapters.transformers_detectors import detector_class, detector_of_folder
from vistill.models.adapters.transformers_library import (
    as_the_module_sees,
    class_of,
    load_module,
    num_channels,
    of_pictures,
    poolers,
    projection_of,
    read_config,
    require_library,
    usual_processing,
    without_remarks,
)
from vistill.models.backbone import Backbone
from vistill.models.files.videomae import vit_of_transformers
from vistill.models.quiet import HUB, quiet
from vistill.models.taps import Own
from vistill.tokens.patches import pixel_patches

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
    source, stored = place_of(name, weights)
    with quiet(HUB), without_remarks():
        config = read_config(source, name)
        load = weights == "pretrained" or (weights == "own" and stored)
        detector = None if classifier else detector_class(config)
        if detector is not None:
            load = stored or load  # a student, too: its heads would be nobody's
            found = detector_of_folder(detector, config, source, name, image_size, load=load)
            return _told(found, source, load)
        kind = class_of(config, name, classifier)
        config = config if classifier else of_pictures(config)
        channels = num_channels(config, name)
        if load:
            module = load_module(kind, config, source, name)
        else:
            with in_one_sentence(f"hf/{name}, a {config.model_type}, cannot be built"):
                module = kind(config, **poolers(kind, config)[0])
        shown = shown_by_processor(source, name, channels) or usual_processing(config)
        projection = None if classifier else projection_of(config, source, load)
    backbone = _adapt(module, name, image_size, shown, classifier)
    if projection is not None:
        backbone.keep_projection(projection)
    if load:
        backbone.pool_itself()
    return _told(backbone, source, load)


def _told(backbone: Backbone, source: str, load: bool) -> Backbone:
    """`backbone`, which knows where its weights are from."""
    found = f"of {source}" if Path(source).is_dir() else "published weights"
    backbone.origin = f"hf/{source}, {found if load else 'random'}"
    backbone.untrained = not load
    return backbone


def place_of(name: str, weights: Literal["none", "own", "pretrained"]) -> tuple[str, bool]:
    """The absolute path of a folder, or the name on the hub, and whether a folder has weights.

    Raises:
        UserError: there is no such folder, it is none of a model, or lacks weights that are wanted.
    """
    require_library()
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
    return (str(folder.absolute()) if local else name), stored


def transformers_from_config(
    config: dict[str, Any],
    image_size: ImageSize | None,
    classifier: bool,
    channels: ChannelOrder = "rgb",
    pooler: bool = False,
) -> Backbone:
    """The architecture that a backbone's `build` describes, with fresh weights."""
    require_library()
    from transformers import CONFIG_MAPPING

    settings = CONFIG_MAPPING[config["model_type"]].from_dict(config)
    kind = class_of(settings, config["model_type"], classifier)
    module = kind(settings, **poolers(kind, settings)[0 if pooler else -1])
    shown = usual_processing(settings)._replace(channels=channels)
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
            _require_multiple(of_pictures(self.module.config), self.image_size)
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
        config, size = of_pictures(config), tuple(images.shape[-2:])
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
    grey, flipped = num_channels(config, name) == 1, shown.channels == "bgr"
    if grey or flipped:
        module.register_forward_pre_hook(partial(as_the_module_sees, grey, flipped))
    if image_size is not None:
        sizes = [height_width(image_size)]
    else:
        built_for = _image_size(of_pictures(config))
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
    sees = of_pictures(config)
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
