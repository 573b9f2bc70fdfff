"""The resolved configuration of a run in short, for the screen."""

from pathlib import Path
from typing import TYPE_CHECKING

from vistill.config.data import DataConfig
from vistill.config.multi_student import student_configs
from vistill.config.optim import WARMED_UP, OptimConfig
from vistill.config.uses import idle_settings
from vistill.data.mixture import MixtureStream
from vistill.models.backbone import Backbone
from vistill.training.optim import peak_lr

if TYPE_CHECKING:
    from vistill.runs.pretraining import Prepared


def describe(run: "Prepared") -> list[str]:
    """One line each on method, teacher, students, data and training."""
    config, source = run.config, run.reading.source
    teacher, models = run.method.teacher, {"": config}
    if config.students is not None:
        models = student_configs(config)
    train, optim = config.train, config.optim
    lines = [f"method   {config.method.name}"]
    if teacher is not None:
        block = f", block {config.teacher.block}" if config.teacher.block else ""
        lines.append(
            f"teacher  {config.teacher.model}: {_millions(teacher)}{block}; "
            f"weights: {teacher.origin}{_reads(teacher)}{_computes(teacher)}"
        )
    for name, own in models.items():
        student = run.method.exports[name]
        lines.append(
            f"student  {f'{name}: ' if name else ''}{own.student.model}: {_millions(student)}, "
            f"{student.width} wide, {f'{student.depth} blocks, ' if student.depth else ''}"
            f"{_pixels(student)}{_clip(config.data)}{_reads(student)}"
        )
    lines += _data(run)
    if train.knn_probe and source.unlabelled is not None and source.unlabelled.meant:
        lines.append(f"note     no labels, so no kNN probe: {source.unlabelled.reason}")
    alone = {"--data ": source}
    parts = {f"data.sources.{part.name}.train=": part.source for part in run.reading.parts}
    for word, one in (parts or alone).items():
        for test in ("val", "test"):
            folder = Path(one.name)
            if (folder / "train").is_dir() and (folder / test).is_dir():
                lines.append(
                    f"note     {one.name} holds train/ and {test}/; both are trained on: to keep "
                    f"the test {one.media.noun}s apart, give {word}{folder / 'train'}"
                )
    lr = peak_lr(optim, train.global_batch_size)
    lines.append(
        f"train    {train.epochs} epochs of {run.stream.steps_per_epoch} steps, "
        f"batch {train.global_batch_size}, learning rate {lr:.3g}, "
        f"{_schedule(optim)}, {train.precision}"
    )
    lines += [f"note     {note}" for note in run.adapted.notes]
    lines += [f"note     {idle}" for idle in idle_settings(config)]
    if train.strategy != "ddp" and run.world.size == 1:
        lines.append(f"note     train.strategy={train.strategy} has no use with one rank")
    return lines


def _data(run: "Prepared") -> list[str]:
    """Where samples come from; of a mixture a line for each source."""
    source, held_out = run.reading.source, run.held_out
    if isinstance(run.stream, MixtureStream):
        data, steps = run.config.data, run.stream.steps
        return [
            f"data     {part.name}: {part.source.name}: {len(part.source)} "
            f"{part.source.media.noun}s{_clip(data.of_source(part.name))}, "
            f"{len(part.own(held_out))} held out, {part.passes:g} × an epoch: "
            f"{steps[part.name]} of its {run.stream.steps_per_epoch} steps"
            for part in run.reading.parts
        ]
    classes = ""
    if source.classes is not None and source.labels is not None:
        known = int((source.labels >= 0).sum())
        some = f" ({known} of {len(source)} labelled)" if known < len(source) else ""
        classes = f", {len(source.classes)} classes{some}"
    return [
        f"data     {source.name}: {len(source)} {source.media.noun}s{classes}, "
        f"{len(held_out)} held out"
    ]


def _schedule(optim: OptimConfig) -> str:
    name = "" if optim.schedule == "cosine" else f"{optim.schedule} schedule"
    warm_up = f"warm-up {optim.warmup_epochs:g} epochs" if optim.schedule in WARMED_UP else ""
    return ", ".join(filter(None, [name, warm_up]))


def _pixels(model: Backbone) -> str:
    height, width = model.image_size
    return f"{height} px" if height == width else f"{height} px high, {width} px wide"


def _clip(data: DataConfig) -> str:
    if data.frames is None or data.sources is not None:
        return ""
    stride = f" × {data.stride}" if data.sampling in ("dense", "stretched") else ""
    copies = f", {data.repeats} crops of each" if data.repeats > 1 else ""
    return f", {data.frames}{stride} frames ({data.sampling}){copies}"


def _reads(model: Backbone) -> str:
    return f"; read is {model.reads}" if model.reads else ""


def _computes(model: Backbone) -> str:
    return f"; computes in {model.precision}" if model.precision else ""


def _millions(model: Backbone) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
