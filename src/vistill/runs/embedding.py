"""A model that makes a point in space of every picture or clip, and perhaps of every sentence."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from vistill.config.clip_recipes import ClipSettings, clip_settings
from vistill.config.samples import EmbedConfig, SamplesConfig
from vistill.errors import UserError
from vistill.runs.inference import Job
from vistill.runs.reference import backbone_reference, require_trained, with_module
from vistill.runs.samples import clips_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vistill.batch import Batch
    from vistill.models.backbone import Backbone

FRAMES = 8
"""Of a clip that a model of pictures looks at."""


class Embedder(NamedTuple):
    """What makes an index and asks it.

    Attributes:
        job: embeds pictures or clips.
        read: embeds sentences, `[n, E]`; None for a model without text.
        of_pictures: whether the model takes pictures, and of clips their frames.
    """

    job: Job
    read: "Callable[[Sequence[str]], Tensor] | None"
    of_pictures: bool


def feature_job(
    config: EmbedConfig,
    model: Any,
    into: "nn.Module | str | None" = None,
    *,
    frames: int | None = None,
) -> Job:
    """The feature that nearest neighbours and the linear probe see, of one view of a clip unless
    the settings say more.

    Args:
        config: how samples are read.
        model: a backbone, as for `vistill.load_backbone`.
        into: the module of the user's own whose weights it has.
        frames: let a model of pictures look at so many frames of a clip.

    Raises:
        UserError: there is no such model, nobody trained it, or settings that do not suit it.
    """
    from vistill.evaluation.classifier import prepare_backbone
    from vistill.models.build import load_backbone

    reference, into = with_module(backbone_reference(model), into)
    # An object is left as it is: a copy is resized.
    size = config.image_size if isinstance(reference, str) else None
    backbone = load_backbone(reference, image_size=size, into=into).eval()
    require_trained(backbone, model)
    source_name = reference if isinstance(reference, str) else "an object"
    single = backbone.num_frames == 1
    if single and frames is not None:
        clips: ClipSettings | None = frames_of_clip(config, frames)
    else:
        clips = clips_of(config, backbone, source_name, "")
    if clips is not None:
        clips = clips._replace(clips=config.clips or 1, crops=config.crops or 1)
    if config.pool == "cls" and ("norm" not in backbone.taps or not backbone.num_prefix_tokens):
        raise UserError(
            f"this backbone ({backbone.origin}) has no class token behind a final norm; "
            "set pool=avg"
        )
    size = config.image_size or backbone.image_size
    own = None if clips is None or single else clips.frames
    ready = prepare_backbone(backbone, size, config.pool, own)

    def see(images: "Tensor") -> "Tensor":
        return ready.pooled(ready.normalization(images), config.pool)

    compute = partial(_seen, see, single)
    return Job(config, ready, ready, compute, clips, source_name, ready.feature_width, "features")


def embedder(
    config: EmbedConfig, model: "str | Backbone", *, of_clips: bool, text: bool = True
) -> Embedder:
    """The embedder that an index is made with: in the space of text too, where the model has one.

    Args:
        config: how samples are read.
        model: a reference, or a backbone.
        of_clips: whether clips are to be embedded, by a model of pictures frame by frame; one of
            clips takes nothing else.
        text: whether a text tower is looked for.

    Raises:
        UserError: as `feature_job`.
    """
    frames = config.frames or (FRAMES if of_clips else None)
    reference = backbone_reference(model)
    joint = None
    if text and isinstance(reference, str):
        from vistill.models.joint import load_joint

        joint = load_joint(reference)
    if joint is None:
        job = feature_job(config, model, frames=frames)
        return Embedder(job, None, getattr(job.model, "num_frames", 1) == 1)
    require_trained(joint, model)
    for key, usual in (("pool", "avg"), ("image_size", None)):
        if key in config.model_fields_set and getattr(config, key) not in (usual, joint.image_size):
            raise UserError(
                f"{key}={getattr(config, key)} has no use: {reference} is embedded as it was "
                "trained to compare with text"
            )
    if config.frames is not None:
        joint.take_frames(config.frames)
    single, clips = joint.num_frames == 1, None
    if single:
        clips = None if frames is None else frames_of_clip(config, frames)
    else:
        clips = clip_settings("", frames=config.frames or joint.num_frames, sampling="segments")
        clips = clips._replace(clips=config.clips or 1, crops=config.crops or 1)

    def see(images: "Tensor") -> "Tensor":
        return joint.see(joint.normalization(images))

    compute = partial(_seen, see, single)
    what = "embeddings beside text"
    job = Job(config, joint, joint, compute, clips, reference, joint.width, what)
    return Embedder(job, joint.read, single)


def frames_of_clip(config: SamplesConfig, frames: int = FRAMES) -> ClipSettings:
    """What a model of pictures looks at: frames from all over a clip, if the settings say no
    other."""
    sampling = config.sampling or ("segments" if config.stride is None else "dense")
    clips, crops = config.clips or 1, config.crops or 1
    return clip_settings(
        "", frames=frames, stride=config.stride, sampling=sampling, clips=clips, crops=crops
    )


def _seen(see: "Callable[[Tensor], Tensor]", single: bool, batch: "Batch") -> "Tensor":
    """Features of pictures or clips; where a model takes `single` frames, of a clip the mean over
    its frames `[B, 3, T, H, W]` of their features, each brought to length 1."""
    import torch.nn.functional as F

    pixels = batch.unit_pixels()
    if not single or pixels.dim() == 4:
        return see(pixels)
    features = F.normalize(see(pixels.transpose(1, 2).flatten(0, 1)), dim=1)
    return features.unflatten(0, (len(pixels), -1)).mean(dim=1)
