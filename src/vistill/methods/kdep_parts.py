"""KDEP's fixed maps as its switches describe them, and what does not go together."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from vistill.config.methods import KDEPConfig
from vistill.errors import UserError
from vistill.methods.class_scores import score_tap
from vistill.methods.side import Side
from vistill.methods.target_fit import calibration
from vistill.targets.fixed_map import FixedMap, check_width
from vistill.targets.moments import std_ratio


def fixed_map(config: KDEPConfig, name: str, teacher_width: int, width: int) -> FixedMap:
    """The map of one part of the teacher's features.

    Args:
        config: the switches.
        name: of the part, for the error.
        teacher_width, width: channels that come in and go out.

    Raises:
        UserError: there are fewer channels than are wanted.
    """
    what = "feature" if name == "feature" else f"layer of {name}"
    if config.align in ("svd", "channel_var", "channel_random"):
        check_width(width, teacher_width, config.wider, f"{teacher_width}", what)
    if config.align == "identity" and width != teacher_width:
        raise UserError(
            f"method.align=identity needs equal widths, but the student's {what} has {width} "
            f"channels and the teacher's {teacher_width}; use svd"
        )
    return FixedMap(
        config.align,
        config.transform or ("none" if config.align == "conv1x1" else "pts"),
        teacher_width,
        width,
        interpolation=config.interpolation,
        temperature=config.temperature,
        n=config.n,
        target_std=config.target_std,
        ratio=config.std_ratio,
        wider=config.wider,
        channel_seed=config.channel_seed,
        columns=config.columns,
    )


def check_terms(config: KDEPConfig, teacher: Side) -> None:
    """Raise a UserError where nothing is compared, or what the teacher does not have."""
    if not (config.weight or config.stages or config.logits_weight):
        alone = "; to learn from labels alone, use the method supervised"
        raise UserError(
            "method.weight=0 needs method.logits_weight or method.stages"
            + (alone if config.labels_weight else "")
        )
    if config.align == "conv1x1" and config.stages:
        raise UserError("method.stages are matched by fixed maps; method.align=conv1x1 is none")
    if config.logits_weight:
        score_tap(teacher, "method.logits_weight")


def needs_a_pass(maps: Iterable[FixedMap], pictures: int) -> bool:
    """Whether some map has to see the teacher's features of so many pictures first.

    Raises:
        UserError: they are too few for the student's width.
    """
    waiting = [map_ for map_ in maps if not map_.fitted]
    for map_ in waiting:
        if map_.align == "svd":
            rank = min(map_.teacher_width, pictures - 1)
            check_width(map_.width, rank, map_.wider, f"rank {rank} on {pictures} pictures")
    return bool(waiting)


def file_name(name: str) -> str:
    """What leads the names of a part in a run's `fitted.safetensors`."""
    return "" if name == "feature" else f"{name}."


def fit_maps(maps: Mapping[str, FixedMap], fitted: Mapping[str, Tensor]) -> str:
    """Give every map what the pass has found about its part; a line that says what that is."""
    told: list[str] = []
    for name, map_ in maps.items():
        found = calibration(fitted, file_name(name))
        map_.fit(found)
        text = f"channel std ratio {std_ratio(found.std)[0]:.3g}"
        if map_.align == "svd" and map_.columns == "top":
            kept = min(map_.width, found.rank)
            after, _ = std_ratio(found.direction_std[:kept])
            text += f"; {kept} directions hold {found.energy(kept):.1%} of the variance, "
            text += f"std ratio {after:.3g}"
        told.append(f"{name if told else f'{int(found.count)} pictures'}, {text}")
    return "; ".join(told)
