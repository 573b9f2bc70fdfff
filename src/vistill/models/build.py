"""Models by name: students, teachers and saved backbones, all from one string."""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from torch import nn

from vistill.errors import UserError, WrongSize
from vistill.image_size import ImageSize, height_width, plain_size, shown_size
from vistill.models.adapters.detectors import with_maps
from vistill.models.adapters.own_modules import made_backbone
from vistill.models.backbone import Backbone
from vistill.models.layers import QKVBias
from vistill.models.sizes import LIBRARIES, SWIN_SIZES, VIT_SIZES, is_function
from vistill.models.vit import VisionTransformer


def model_names() -> list[str]:
    """Students that need no further sizes."""
    return list(VIT_SIZES)


def create_backbone(
    spec: str,
    *,
    image_size: ImageSize = 224,
    patch_size: int = 16,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_ratio: float = 4.0,
    class_token: bool | None = None,
    position: Literal["sincos", "learned", "none"] = "sincos",
    relative_position: Literal["shared", "layer"] | None = None,
    layer_scale: float | None = None,
    qkv_bias: QKVBias | None = None,
    qk_scale: float | None = None,
    ape: bool = False,
    extra_norm_period: int | None = None,
    initialization: Literal["xavier", "truncated"] = "xavier",
    num_frames: int | None = None,
    tubelet_size: int = 2,
    maps: Sequence[str] = (),
) -> Backbone:
    """A model with fresh weights.

    Args:
        spec: `vit_tiny` ... `vit_huge`; `vit` with all three sizes given; `swinv2_tiny`,
            `swinv2_small`, `swinv2_base`; `timm/NAME`, `torchvision/NAME`, `open_clip/NAME`,
            `hf/NAME` or `hf/FOLDER`; `FILE.py:NAME`, a function of the user's.
        image_size: side of the square input, or (height, width).
        patch_size: side of a patch.
        embed_dim, depth, num_heads: override the named size.
        mlp_ratio: hidden width of the MLP over the token width.
        class_token: whether a class token leads the sequence; None: for pictures only.
        position: fixed sine-cosine table, a learned one, or none.
        qkv_bias: None: `all` for pictures, VideoMAE's `no_key` for clips.
        relative_position, layer_scale, qk_scale, initialization: see `VisionTransformer`.
        ape, extra_norm_period: of a Swin, see `SwinBackbone`.
        num_frames: frames per clip; None for pictures.
        tubelet_size: frames per token of a clip.
        maps: of a model that is none of vistill's own, see `PooledBackbone`.

    Raises:
        UserError: for an unknown name or sizes that do not go together.
    """
    if is_function(spec):
        own = made_backbone(spec, image_size, maps)
        return load_backbone(own, image_size=image_size, num_frames=num_frames)
    if _file_of(spec) is not None:
        return with_maps(load_backbone(spec, image_size=image_size), maps)
    if num_frames is not None and (spec.startswith(LIBRARIES) or spec in SWIN_SIZES):
        raise UserError(
            f"{spec} takes pictures, not clips; take one of {', '.join(VIT_SIZES)}, vit"
        )
    if spec.startswith(LIBRARIES):
        return with_maps(_from_library(spec, image_size, fresh=True), maps)
    if spec in SWIN_SIZES:
        parts = {"ape": ape, "extra_norm_period": extra_norm_period}
        return _swin(spec, image_size, share_bias=relative_position == "shared", **parts)
    given = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    if spec in VIT_SIZES:
        sizes = VIT_SIZES[spec]._asdict() | {k: v for k, v in given.items() if v is not None}
    elif spec == "vit":
        missing = [f"student.{name}" for name, value in given.items() if value is None]
        if missing:
            raise UserError(f"student.model=vit also needs {', '.join(missing)}")
        sizes = {k: v for k, v in given.items() if v is not None}
    else:
        raise UserError(
            f"unknown model {spec!r}; there are {', '.join(VIT_SIZES)}, vit, "
            f"{', '.join(SWIN_SIZES)}, {', '.join(f'{library}NAME' for library in LIBRARIES)}"
        )
    try:
        return VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            mlp_ratio=mlp_ratio,
            class_token=num_frames is None if class_token is None else class_token,
            position=position,
            relative_position=relative_position,
            layer_scale=layer_scale,
            qkv_bias=qkv_bias or ("all" if num_frames is None else "no_key"),
            qk_scale=qk_scale,
            initialization=initialization,
            num_frames=num_frames or 1,
            tubelet_size=None if num_frames is None else tubelet_size,
            **sizes,
        )
    except ValueError as error:
        raise UserError(f"student {spec}: {error}") from error


def _swin(spec: str, image_size: ImageSize, **parts: Any) -> Backbone:
    from vistill.models.swin import SwinBackbone

    try:
        return SwinBackbone(
            version=2,
            image_size=image_size,
            window_size=plain_size([max(2, side // 16) for side in height_width(image_size)]),
            **parts,
            **SWIN_SIZES[spec]._asdict(),
        )
    except ValueError as error:
        raise UserError(f"student {spec}: {error}") from error


def rebuild(build: dict[str, Any]) -> Backbone:
    """The architecture that `Backbone.build` describes, with fresh weights."""
    if build["name"] == "vit":
        return VisionTransformer(**build["args"])
    if build["name"] == "swin":
        from vistill.models.swin import SwinBackbone

        return SwinBackbone(**build["args"])
    if build["name"] == "hf" and "detector" in build["args"]:
        from vistill.models.adapters.transformers_detectors import detector_from_config

        return detector_from_config(**build["args"])
    if build["name"] == "hf":
        from vistill.models.adapters.transformers import transformers_from_config

        return transformers_from_config(**build["args"])
    if build["name"] == "open_clip":
        from vistill.models.adapters.open_clip import open_clip_backbone

        return open_clip_backbone(weights="", **build["args"])
    if build["name"] == "torchvision" and "options" in build["args"]:
        from vistill.models.adapters.torchvision_detectors import torchvision_detector

        return torchvision_detector(pretrained=False, **build["args"])
    if build["name"] == "torchvision":
        from vistill.models.adapters.torchvision import torchvision_backbone

        return torchvision_backbone(pretrained=False, **build["args"])
    if f"{build['name']}/" in LIBRARIES:
        arguments = build["args"]
        keep = ",classifier=keep" if arguments.get("classifier") else ""
        name = f"{build['name']}/{arguments['name']}{keep}"
        return _from_library(name, arguments["image_size"], fresh=True)
    raise UserError(f"unknown kind of model {build['name']!r} in a saved backbone")


def load_backbone(
    spec: str | Backbone,
    *,
    image_size: ImageSize | None = None,
    num_frames: int | None = None,
    into: nn.Module | str | None = None,
) -> Backbone:
    """A model with weights, from wherever they are.

    Args:
        spec: `run:DIR` (a run, or a folder with an exported backbone), `file:PATH` (published
            checkpoints of MAE, TinyMIM, DINO, DeiT, BEiT, CLIP, EsViT and feature distillation, or
            a plain state dict; `,num_heads=N`, `,image_size=HxW` and, of a Swin, `,window=N` where
            no tensor tells it, `,classifier=keep` for the `logits` tap, `,branch=teacher` or
            `,branch=ema` for another network of the file, `,stages=3` to cut a Swin),
            `timm/NAME:pretrained`, `timm/NAME:FILE` (a local checkpoint, strictly) or `timm/NAME`
            (random weights), the same with `torchvision/`, `open_clip/` and `hf/`, `hf/FOLDER` (the
            folder's weights, if any), `open_clip/NAME:TAG` or `open_clip/NAME:PATH`, each with
            `,classifier=keep` where there is a classifier; the name of a ViT (random),
            `FILE.py:NAME` (what that function of the user's returns), or a `Backbone`. Behind
            `run:DIR` and `file:PATH`, `,model=NAME` says whose weights they are: a library's model
            (`file:PATH,model=timm/resnet50`) or a function (`model=nets.py:net`).
        image_size: side of the inputs, or (height, width); None: the model's own. Position tables
            are resized.
        num_frames: frames of the clips that a model of clips will see; None: its own.
        into: the module of the user's own that the weights of `run:DIR` belong to, bare or wrapped,
            or the function that makes it.

    Raises:
        UserError: if there is no such model or its weights do not fit.
    """
    if into is not None and not (isinstance(spec, str) and spec.startswith("run:")):
        raise UserError(f"{spec} is no run, whose weights the given module could take")
    if isinstance(spec, Backbone):
        model = spec
    elif spec.startswith("run:"):
        from vistill.models.export import read_backbone

        folder, _, made_by = spec.removeprefix("run:").partition(",model=")
        model = read_backbone(Path(folder), made_by or into)
    elif spec.startswith("file:"):
        model = _from_file(spec.removeprefix("file:"))
    elif (reference := _file_of(spec)) is not None:
        model = _from_file(reference)
    elif is_function(spec):
        model = made_backbone(spec)
    elif spec.startswith(LIBRARIES):
        model = _from_library(spec, image_size)
        if not spec.startswith("open_clip/"):
            image_size = None  # built for it
    elif spec in VIT_SIZES or spec in SWIN_SIZES:
        return create_backbone(spec, image_size=image_size or 224)
    else:
        if Path(spec).exists():
            kind = "run" if Path(spec).is_dir() else "file"
            raise UserError(f"unknown model {spec!r}; did you mean {kind}:{spec}?")
        near = get_close_matches(spec, [*VIT_SIZES, *SWIN_SIZES], n=1)
        if near:
            raise UserError(f"unknown model {spec!r}; did you mean {near[0]!r}?")
        raise UserError(
            f"unknown model {spec!r}; write timm/NAME:pretrained, hf/FOLDER, run:DIR, file:PATH or "
            f"one of {', '.join(VIT_SIZES)}"
        )
    own = model.image_size
    size = own if image_size is None else height_width(image_size)
    frames = (num_frames or model.num_frames) if model.num_frames > 1 else 1
    if (size, frames) != (model.image_size, model.num_frames):
        resize: Any = getattr(model, "resize", None)
        if resize is None:
            raise UserError(
                f"{_named(spec)} takes pictures of {shown_size(model.image_size)} pixels alone, "
                f"not of {shown_size(size)}"
            )
        try:
            resize(size, frames) if frames > 1 else resize(size)
        except (ValueError, UserError) as error:
            hint = size_instead(size, lambda other: resized(model, other or own))
            raise UserError(f"{_named(spec)}: {error}{hint}") from error
    return model


def resized(model: Any, size: ImageSize) -> Backbone:
    """A copy of a model that can be resized."""
    other = copy.deepcopy(model)
    other.resize(size)
    return other


def _named(spec: str | Backbone) -> str:
    """What a model is called in a sentence."""
    if isinstance(spec, str):
        return spec
    return f"the {type(getattr(spec, 'module', spec)).__name__} given as an object"


def size_instead(
    size: ImageSize,
    build: Callable[[ImageSize | None], Backbone],
    setting: str = "image_size",
) -> str:
    """What stands behind a refusal: a square that the model takes, or its own size; nothing where
    the size is not at fault.

    Args:
        size: that was asked for.
        build: the model for a size, or for its own (None); raises where it takes none.
        setting: where it was asked for.
    """
    sides = height_width(size)
    for other in (sides, max(sides), min(sides), None):
        with suppress(ValueError, UserError):
            found = build(other).image_size
            return f"; {setting}={shown_size(found)} would do" if found != sides else ""
    return ""


def load_teacher(
    spec: str | Backbone,
    *,
    weights: Literal["random"] | None = None,
    image_size: ImageSize | None = None,
    num_frames: int | None = None,
) -> Backbone:
    """`load_backbone`, refusing a model whose weights nobody trained unless `weights="random"`.

    Raises:
        UserError: also if the weights are random and `weights` does not say so.
    """
    teacher = load_backbone(spec, image_size=image_size, num_frames=num_frames)
    if teacher.untrained and weights != "random":
        name = spec.origin if isinstance(spec, Backbone) else spec
        plain = name.partition(",")[0]
        hint = f"{plain}:pretrained" if plain.startswith(LIBRARIES) else "run:DIR or file:PATH"
        raise UserError(
            f"the teacher {name} would have random weights; write {hint}, "
            "or say --teacher-weights random if that is what you want"
        )
    return teacher


def _from_file(reference: str) -> Backbone:
    from vistill.models.export import WEIGHTS, is_export, read_backbone
    from vistill.models.files.checkpoints import (
        backbone_from_file,
        file_options,
        load_file_into,
        size_option,
    )

    path, options = file_options(reference)
    name = options.get("model")
    if name is None:
        folder = Path(path).parent
        if not options and Path(path).name == WEIGHTS and is_export(folder):
            model = read_backbone(folder)  # its sizes stand beside it
            model.origin = f"file {path}"
            return model
        return backbone_from_file(reference)
    if name.startswith("torchvision/") and _is_detector(name.removeprefix("torchvision/")):
        from vistill.models.adapters.torchvision_detectors import detector_of_file

        return detector_of_file(
            name.removeprefix("torchvision/"),
            path,
            image_size=size_option(reference, options),
            branch=options.get("branch"),
        )
    if is_function(name):
        model = made_backbone(name)
    elif name.startswith(LIBRARIES) and ":" not in name:
        keep = ",classifier=keep" if "classifier" in options else ""
        model = _from_library(f"{name}{keep}", size_option(reference, options), fresh=True)
    else:
        raise UserError(
            f"file:{reference}: model must be LIBRARY/NAME or FILE.py:NAME, not {name!r}"
        )
    load_file_into(model, reference)
    model.pool_itself()
    return model


def _file_of(spec: str) -> str | None:
    """`FILE,model=LIBRARY/NAME` of `LIBRARY/NAME:FILE`; open_clip reads its files itself."""
    name, _, rest = spec.partition(":")
    if not name.startswith(LIBRARIES) or name.startswith("open_clip/"):
        return None
    path, _, options = rest.partition(",")
    if not Path(path).suffix and not Path(path).is_file():
        return None
    return ",".join(part for part in (path, f"model={name}", options) if part)


def _from_library(spec: str, image_size: ImageSize | None, *, fresh: bool = False) -> Backbone:
    """`LIBRARY/NAME[:WEIGHTS][,classifier=keep]`; `fresh`: whatever weights there may be."""
    try:
        return _built(spec, image_size, fresh=fresh)
    except UserError as error:
        if image_size is None or isinstance(error, WrongSize):
            raise
        name = spec.partition(":")[0]
        hint = size_instead(image_size, lambda other: _built(name, other, fresh=True))
        raise UserError(f"{error}{hint}") from error


def _built(spec: str, image_size: ImageSize | None, *, fresh: bool) -> Backbone:
    reference, _, option = spec.partition(",")
    library, _, rest = reference.partition("/")
    name, _, weights = rest.partition(":")
    detector = library == "torchvision" and _is_detector(name)
    if not detector and option not in ("", "classifier=keep"):
        raise UserError(f"{spec}: {option!r} is not the option classifier=keep")
    keep = bool(option)
    if library == "open_clip":
        from vistill.models.adapters.open_clip import open_clip_backbone

        if keep:
            raise UserError(f"{spec}: no model of open_clip has a classifier")
        return open_clip_backbone(name, weights=weights, image_size=image_size)
    if weights not in ("", "pretrained"):
        raise UserError(f"{spec}: only ':pretrained' may follow {library}/{name}, not ':{weights}'")
    pretrained = weights == "pretrained"
    if library == "timm":
        from vistill.models.adapters.timm import timm_backbone

        return timm_backbone(name, pretrained=pretrained, image_size=image_size, classifier=keep)
    if library == "hf":
        from vistill.models.adapters.transformers import transformers_backbone

        own: Literal["none", "own"] = "none" if fresh else "own"
        return transformers_backbone(
            name,
            weights="pretrained" if pretrained else own,
            image_size=image_size,
            classifier=keep,
        )
    if detector:
        from vistill.models.adapters.torchvision_detectors import (
            detector_options,
            torchvision_detector,
        )

        wanted = detector_options(spec, option)
        return torchvision_detector(
            name, pretrained=pretrained, image_size=image_size, options=wanted
        )
    from vistill.models.adapters.torchvision import torchvision_backbone

    return torchvision_backbone(name, pretrained=pretrained, image_size=image_size, classifier=keep)


def _is_detector(name: str) -> bool:
    """Whether torchvision lists the name under detection or segmentation."""
    from vistill.models.adapters.torchvision_detectors import detector_names

    return name in detector_names()
