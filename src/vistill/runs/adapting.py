"""What a recipe or a default asks for, and these samples or this machine cannot give, is replaced
and said. What the user says is never replaced."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from vistill.config.schema import RunConfig
from vistill.errors import UserError
from vistill.runs.reading import Reading, open_samples
from vistill.runs.results import say_notes
from vistill.training.distributed import World, connect
from vistill.training.optim import peak_lr
from vistill.training.precision import computes, recommended, require_precision
from vistill.training.run_folder import read_marker

_BATCH, _PRECISION = "train.global_batch_size", "train.precision"
AUTO: Final = "auto"
_RATES = ("optim.lr", "optim.min_lr", "optim.warmup_lr")
_KEYS = (_BATCH, *_RATES, _PRECISION)
_STEPS = 4
"""Steps of an epoch that a batch chosen by us leaves, where there are so many samples."""
_PICTURES, _VIEWS = 64, 16
"""Largest batch that a CPU is given unasked: pictures, or crops of clips."""


@dataclass(frozen=True)
class Adapted:
    """A configuration that fits.

    Attributes:
        config: with the replacements.
        asked: what was replaced, by its setting: the values before.
        notes: one sentence per replacement.
    """

    config: RunConfig
    asked: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit_to_place(
    config: RunConfig, said: Collection[str], out: Path, *, overwrite: bool
) -> tuple[Adapted, Reading]:
    """The samples of a run or chain in `out`, and its settings as far as these and the machine
    allow; `said` are those that cannot be replaced.

    Raises:
        UserError: see `vistill.api.pretrain`.
    """
    world = connect(config.train.device)
    reading = open_samples(config.data, config.method)
    say_notes(reading.source.name, reading.source.notes)
    train, _ = reading.split(config.data.held_out, config.seed)
    noun, samples, place = reading.source.media.noun, len(train), ""
    for part in reading.parts:
        if len(own := part.own(train)) < samples:
            noun, samples = part.source.media.noun, len(own)
            place = f" of data.sources.{part.name}"
    marker = None if overwrite else world.once(lambda: read_marker(out))
    which: dict[str, Any] = {"samples": samples, "noun": noun, "place": place}
    fitting = adapt(config, said, world=world, marker=marker, **which)
    return fitting, reading


def adapt(
    config: RunConfig,
    said: Collection[str],
    *,
    world: World,
    samples: int,
    noun: str,
    marker: Mapping[str, Any] | None,
    place: str = "",
) -> Adapted:
    """`config` with a batch, its learning rates and a precision that fit.

    A batch of more than all samples becomes one of which an epoch has at least four; on a CPU it is
    at most 64 pictures or 16 crops of clips. Learning rates follow it linearly, as `optim.base_lr`
    does anyway. A run that was begun keeps what it was given then, wherever it goes on.

    Args:
        config: as asked for.
        said: settings that the user said.
        world: where it is to run.
        samples: number of training samples, of a mixture those of its smallest source.
        noun: what one of them is called.
        marker: content of the run's marker, where its folder is there already.
        place: of which source they are, in a mixture.

    Raises:
        UserError: what the user said, or what the run was begun with, cannot be had here.
    """
    asked = {key: _get(config, key) for key in _KEYS}
    given = {key for key in said if key in _KEYS and asked[key] not in (None, AUTO)}
    found = dict(asked)
    notes: list[str] = []
    kept = {} if marker is None else _kept(asked, given, marker)
    found |= kept
    if _BATCH not in {*given, *kept}:
        found[_BATCH], why = _batch(config, said, world, samples, f"{noun}s{place}")
        scale = found[_BATCH] / asked[_BATCH]
        if "optim.lr" not in given:
            rates = (key for key in _RATES if key not in {*given, *kept} and asked[key])
            found |= {key: asked[key] * scale for key in rates}
    else:
        why = "as when this run began"
    if _PRECISION not in kept:
        found[_PRECISION] = _precision(asked[_PRECISION], world, said=_PRECISION in given)
    elif found[_PRECISION] == "fp16" and world.device.type == "cpu":
        raise UserError(
            "this run was begun with train.precision=fp16, which a CPU does not compute; continue "
            "it on a CUDA device"
        )
    replaced = {key: asked[key] for key in _KEYS if found[key] != asked[key]}
    config = _with(config, {key: found[key] for key in replaced})
    if _BATCH in replaced:
        peak = peak_lr(config.optim, found[_BATCH])
        rate = f"optim.lr={peak:.3g} stays, as you set it"
        if "optim.lr" not in given:
            rate = f"the learning rate follows it: {peak:.3g} at its peak"
        notes.append(f"{_BATCH}={found[_BATCH]} instead of {asked[_BATCH]}, {why}; {rate}")
    device = "CPU" if world.device.type == "cpu" else "GPU"
    if asked[_PRECISION] == AUTO:
        if found[_PRECISION] != recommended(world.device):
            notes.append(f"{_PRECISION}={found[_PRECISION]}, as when this run began")
    elif _PRECISION in replaced:
        when = "as when this run began" if _PRECISION in kept else f"which this {device} lacks"
        notes.append(f"{_PRECISION}={found[_PRECISION]} instead of {asked[_PRECISION]}, {when}")
    elif not computes(world.device, config.train.precision):
        notes.append(
            f"{_PRECISION}={config.train.precision} is emulated on this {device}; fp32 is faster"
        )
    return Adapted(config, replaced, tuple(notes))


def _kept(asked: Mapping[str, Any], given: set[str], marker: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was given when it began, as far as the same is asked for now."""
    before, used = marker.get("asked", {}), marker["fingerprint"]
    kept = {}
    for key in (key for key in _KEYS if key not in given):
        section, name = key.split(".")
        value = used.get(section, {}).get(name)
        if before.get(key, value) == asked[key] or asked[key] == AUTO:
            kept[key] = value
    return kept


def _batch(
    config: RunConfig, said: Collection[str], world: World, samples: int, nouns: str
) -> tuple[int, str]:
    """The batch to train with, and why it is not the one asked for."""
    train, data = config.train, config.data
    wanted, why = train.global_batch_size, ""
    micro = train.micro_batch_size if "train.micro_batch_size" in said else None
    unit = world.size * (micro or 1)
    if unit > samples:
        raise UserError(
            f"train.micro_batch_size={micro or 1} on {world.size} rank(s) is more than the "
            f"{samples} training {nouns} of a step"
        )
    most = wanted
    if wanted > samples:
        most = max(samples // _STEPS, min(2, samples))
        why = f"as there are {samples} training {nouns}"
    if world.device.type == "cpu":
        least = _PICTURES if data.frames is None else max(1, _VIEWS // data.repeats)
        if least < most:
            most, why = least, "as this is a CPU"
    if most == wanted:
        return wanted, ""
    batch = unit
    while 2 * batch <= most:
        batch *= 2
    return min(batch, wanted), why


def _precision(asked: str, world: World, *, said: bool) -> str:
    """The precision to train in."""
    if asked == AUTO:
        return recommended(world.device)
    if said:
        kind: Literal["cpu", "cuda"] = "cpu" if world.device.type == "cpu" else "cuda"
        require_precision(asked, kind, _PRECISION)
        return asked
    return next(one for one in (asked, "bf16", "fp32") if computes(world.device, one))


def _get(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _with(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={
            name: getattr(config, name).model_copy(update=update)
            for name, update in sections.items()
        }
    )
