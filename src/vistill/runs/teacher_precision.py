"""The type that a run's teacher computes in; int8 where the run's own samples say that the loss
hardly moves."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistill.batch import Batch
from vistill.config.schema import RunConfig
from vistill.data import BrokenFiles
from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.ranks import copied
from vistill.methods.shared_view import SharedView
from vistill.models.backbone import Backbone
from vistill.models.int8 import lacks_int8, layers
from vistill.models.precision import AUTOCAST, Precision, run_in
from vistill.runs.adapting import AUTO, Adapted
from vistill.runs.reading import Reading
from vistill.training.distributed import World
from vistill.training.precision import computes, plain, recommended, require_precision

SETTING = "teacher.precision"
SHARE = 0.01
"""Of the loss that int8 may move it by."""
_PICTURES, _CLIPS = 16, 4
"""Samples that are looked at."""
_HOST = torch.device("cpu")


def settle_teacher(
    adapted: Adapted,
    method: Method,
    world: World,
    reading: Reading,
    train: np.ndarray,
    begun: Mapping[str, Any] | None,
) -> tuple[Adapted, Callable[[], None]]:
    """Let the method's teacher compute in the type that the settings and its samples allow.

    Args:
        adapted: the settings.
        method: on the host.
        world: where it is to run.
        reading: how samples are read.
        train: indices of those to train on.
        begun: the marker of the run's folder, where it is there already; it keeps what it had.

    Returns:
        The settings with that type, and what gives the teacher back.

    Raises:
        UserError: the device is refused the type.
    """
    config, teacher = adapted.config, method.teacher
    wanted, usual = config.teacher.precision, plain(config.train.precision, world.device)
    if teacher is None or (wanted == AUTO and usual == "fp32"):
        return adapted, lambda: None
    if wanted == AUTO:
        return adapted, run_in(teacher, usual)
    require_precision(wanted, "cpu" if world.device.type == "cpu" else "cuda", SETTING)
    beside = recommended(world.device)
    if wanted != "int8":
        note = f"{SETTING}={wanted} is emulated on this CPU; fp32 is faster"
        notes = [] if computes(world.device, wanted) else [note]
        return replace(adapted, notes=(*adapted.notes, *notes)), run_in(teacher, wanted)
    found = _kept(begun)
    if found is None:
        found, note = world.once(lambda: _judge(config, method, teacher, reading, train, beside))
    else:
        note = "" if found == wanted else f"{SETTING}={found}, as when this run began"
        if found == wanted and lacks_int8():
            raise UserError(
                f"this run was begun with {SETTING}=int8, and {lacks_int8()}; continue it where "
                "it began"
            )
    if found != wanted:
        own = config.teacher.model_copy(update={"precision": found})
        config = config.model_copy(update={"teacher": own})
    asked = {**adapted.asked, SETTING: wanted}
    notes = [*adapted.notes, *([note] if note else [])]
    undo = run_in(teacher, found, beside)
    return replace(adapted, config=config, asked=asked, notes=tuple(notes)), undo


def _kept(begun: Mapping[str, Any] | None) -> Precision | None:
    """What a run that asked for int8 was given."""
    if begun is None or begun.get("asked", {}).get(SETTING) != "int8":
        return None
    found: Precision = begun["fingerprint"]["teacher"].get("precision", "fp32")
    return found


def _judge(
    config: RunConfig,
    method: Method,
    teacher: Backbone,
    reading: Reading,
    train: np.ndarray,
    beside: Precision,
) -> tuple[Precision, str]:
    """Int8, or the next cheaper type; and why."""
    instead = f"{SETTING}={beside} instead of int8"
    if why := lacks_int8():
        return beside, f"{instead}: {why}"
    if not layers(teacher):
        return beside, f"{instead}: this teacher has no Linear layers that it would speed up"
    fits = method.target_fit(len(train)) is not None
    if fits and not isinstance(method, SharedView):
        return beside, f"{instead}: what it does to the loss is not known before the targets fit"
    noun, moved, seen = reading.source.media.noun, 0.0, 0
    most = _PICTURES if config.data.frames is None else _CLIPS
    places = np.linspace(0, len(train) - 1, min(most, len(train))).astype(int)
    for batch in reading.eval_batches(
        train[places],
        train_view=True,
        batch_size=most,
        workers=0,
        timeout=config.data.timeout,
        broken=BrokenFiles(len(train), max_share=1.0, noun=noun),
    ):
        moved = max(moved, _moved(method, batch, config, beside, fits=fits))
        seen += len(batch)
    what = "the features it gives" if fits else "the loss"
    told = f"moves {what} of {seen} of your {noun}s by {100 * moved:.2g} %"
    if moved <= SHARE:
        slow = f"; {SETTING}=bf16 is faster on a CPU like this" if beside == "bf16" else ""
        return "int8", f"{SETTING}=int8 {told} (up to {100 * SHARE:g} % is taken){slow}"
    return beside, f"{instead}, which {told}, more than {100 * SHARE:g} %"


@torch.no_grad()
def _moved(
    method: Method, batch: Batch, config: RunConfig, beside: Precision, *, fits: bool
) -> float:
    """By which share of itself int8 moves the loss. Of a method that `fits` targets first: the mean
    square error of its teacher's features over their variance, which such a loss grows by."""
    teacher, dtype = method.teacher, AUTOCAST[plain(config.train.precision, _HOST)]
    assert teacher is not None
    state, was_training = copied(method.rank_state()), method.training
    method.eval()

    def said(precision: Precision) -> Tensor:
        undo = run_in(teacher, precision, beside)
        try:
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                if not fits:
                    return method(batch).total.double()
                assert isinstance(method, SharedView)
                found = method.live_features(method.view(batch, augment=True))
                parts = found.values() if isinstance(found, Mapping) else [found]
                return torch.cat([part.double().flatten(1) for part in parts], dim=1)
        finally:
            undo()
            method.load_rank_state(state)

    before, after = said("fp32"), said("int8")
    method.train(was_training)
    if not fits:
        return float((after / before - 1).abs())
    return float((after - before).square().sum() / (before - before.mean(0)).square().sum())
