"""Everything that runs measured, as plots: of one over its epochs, of several over samples seen."""

import math
from collections.abc import Sequence

import numpy as np

from vistill.analysis.plot import COLOURS, Band, Curve, Scale
from vistill.runs.reports.records import Record
from vistill.training.outlook import next_end, outlook

_TITLES = {
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "grad_norm": "Gradient norm before clipping",
    "images_per_second": "Samples per second",
    "data_wait": "Share of the time spent waiting for data",
    "memory_gb": "Peak memory, GB",
    "loss": "Loss",
    "held_out_loss": "Held-out loss",
    "knn": "kNN accuracy, percent",
}
_AXES = {"step", "epoch"}
_AHEAD = 12


def run_curves(record: Record) -> list[Curve]:
    """One run: its losses together, then all else."""
    keys = [key for key in record.measured() if key not in _AXES]
    terms = [key for key in keys if key.startswith("loss/")]
    held = [key for key in keys if _ends(key, "held_out_loss")]
    probes = [key for key in keys if _ends(key, "knn")]
    curves = []
    if losses := [*(["loss"] if "loss" in keys else []), *held]:
        curves.append(_together(record, "Loss", losses, scale="auto"))
    if len(terms) > 1 or _differs(record, terms):
        parts = [terms[first : first + COLOURS] for first in range(0, len(terms), COLOURS)]
        curves += [
            _together(record, f"Terms of the loss{f', {n}' if n > 1 else ''}", part, scale="auto")
            for n, part in enumerate(parts, start=1)
        ]
    if probes:
        curves.append(_together(record, _TITLES["knn"], probes))
    told = {"loss", *terms, *held, *probes}
    # What tells most first.
    rest = sorted((key for key in keys if key not in told), key=_place)
    curves += [_together(record, _TITLES.get(key, key), [key], scale=_scale(key)) for key in rest]
    return [curve for curve in curves if curve.lines]


def runs_together(records: Sequence[Record]) -> list[Curve]:
    """Several runs laid over each other, a plot for everything that was measured."""
    keys = dict.fromkeys(key for record in records for key in record.measured() if key not in _AXES)
    found = []
    for key in sorted(keys, key=_place):
        lines = {}
        for record in records:
            batch = record.section("train").get("global_batch_size") or 1
            repeats = record.section("data").get("repeats") or 1
            points = record.points(key, "step", batch * repeats)
            if points[0]:
                lines[record.name] = points
        title = key.removeprefix("loss/")
        title = _TITLES.get(key, f"Term of the loss: {title}" if title != key else key)
        if lines:
            found.append(Curve(title, "samples seen", lines, scale=_scale(key)))
    return found


def _together(record: Record, title: str, keys: Sequence[str], scale: Scale = "linear") -> Curve:
    lines, bands = {}, {}
    for key in keys:
        name = key.removeprefix("loss/").replace("held_out_loss", "held out")
        lines[name] = record.points(key)
        if (band := _ahead(record, key)) is not None:
            bands[name] = band
    told = {name: line for name, line in lines.items() if any(map(math.isfinite, line[1]))}
    return Curve(title, "epoch", told, bands, scale)


def _ahead(record: Record, key: str) -> Band | None:
    """What the power law through the evaluations expects of later ones."""
    if not (_ends(key, "knn") or _ends(key, "held_out_loss")):
        return None
    x, y = record.points(key)
    curve = [(round(epoch), value) for epoch, value in zip(x, y, strict=True)]
    if not curve or not record.epochs:
        return None
    last = curve[-1][0]
    falls = _ends(key, "held_out_loss")
    then = np.unique(np.linspace(last + 1, next_end(last, record.epochs), _AHEAD).round())
    found = [outlook(curve, int(epoch), falls=falls) for epoch in then]
    if any(one is None for one in found):
        return None
    known = [one for one in found if one is not None]
    most = math.inf if falls else 100.0
    return Band(
        [one.epoch for one in known],
        [max(one.low, 0.0) for one in known],
        [min(one.value, most) for one in known],
        [min(one.high, most) for one in known],
    )


def _differs(record: Record, terms: Sequence[str]) -> bool:
    """Whether a single term is not the whole loss."""
    return any(row.get(term) != row.get("loss") for term in terms for row in record.rows
               if term in row)  # fmt: skip


def _ends(key: str, metric: str) -> bool:
    """Whether a key is a metric, or that of one of several students."""
    return key == metric or key.endswith(f"/{metric}")


def _scale(key: str) -> Scale:
    return (
        "auto"
        if key.startswith("loss") or _ends(key, "held_out_loss") or key == "grad_norm"
        else "linear"
    )


def _place(key: str) -> tuple[int, str]:
    order = ["loss", "held_out_loss", "knn", *_TITLES]
    return (order.index(key), "") if key in order else (3 if key.startswith("loss/") else 99, key)
