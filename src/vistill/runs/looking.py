"""How models that read look at pictures or clips."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from vistill.config.clip_recipes import ClipSettings, clip_settings
from vistill.config.samples import SamplesConfig
from vistill.runs.samples import open_samples

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.evaluation.features import Features
    from vistill.training.distributed import World

C = TypeVar("C", bound=SamplesConfig)


def opened(config: SamplesConfig, data: str) -> "Source":
    """Pictures, or clips where the settings tell frames.

    Raises:
        UserError: there are none, or none can be read.
    """
    media: Literal["image", "video"] = "image" if config.frames is None else "video"
    return open_samples(config, data, media)


def drawn(source: "Source", count: int, seed: int) -> "np.ndarray":
    """Positions of up to `count` samples, in order."""
    import numpy as np

    return np.sort(np.random.default_rng(seed).permutation(len(source))[:count])


def taking(config: C, clips: ClipSettings | None) -> C:
    """The settings with how clips are taken; as they are for pictures."""
    if clips is None:
        return config
    told = {"frames": clips.frames, "stride": clips.stride, "sampling": clips.sampling}
    return config.model_copy(update=told)


def looked_at(
    config: SamplesConfig,
    model: Any,
    compute: "Callable[[Batch], Tensor]",
    source: "Source",
    samples: "np.ndarray",
    world: "World | None" = None,
) -> "Features":
    """`compute` of all samples, with the model on its device, where it stays.

    Args:
        config: tells frames and how they are taken, batch, loaders and device.
        model: with an `image_size`.
        compute: of a batch on the device.
        source: of the samples.
        samples: positions there.
        world: the ranks that share the samples, all of which get all rows; None: this one alone.

    Raises:
        UserError: none can be read.
    """
    from vistill.evaluation.features import collect
    from vistill.evaluation.inputs import Inputs, workers_of
    from vistill.training.distributed import alone

    clips = None
    if config.frames is not None:
        sampling, stride = config.sampling or "segments", config.stride
        clips = clip_settings("", frames=config.frames, stride=stride, sampling=sampling).middle
    inputs = Inputs(model.image_size, clips, config.timeout)
    inputs.require(source)
    world = world or alone(config.device)
    progress = f"embedding {len(samples)} {source.media.noun}s" if world.main else None
    found = collect(
        model,
        compute,
        source,
        samples,
        inputs=inputs,
        batch_size=config.batch_size or inputs.at_once,
        workers=workers_of(config, world.size),
        device=world.device,
        progress=progress,
        world=world,
    )
    model.to(world.device)
    return found
