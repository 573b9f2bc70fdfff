"""One pre-training run from a checked configuration: prepare, train, evaluate, export."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import vistill
from vistill.batch import Batch
from vistill.config.schema import RunConfig
from vistill.data import BrokenFiles, TrainStream, default_workers
from vistill.data.mixture import MixtureStream
from vistill.data.stamps import STAMPS, Stamps, write_stamps
from vistill.errors import Failure, UserError
from vistill.files import write_atomic
from vistill.methods.base import Method, TargetFit
from vistill.models.backbone import Backbone
from vistill.models.export import save_backbone
from vistill.models.precision import keep_weights
from vistill.models.text.saved import save_text
from vistill.runs.adapting import AUTO, Adapted
from vistill.runs.build import build, build_several
from vistill.runs.cache_plan import Planned, Samples, plan_caches
from vistill.runs.describe import describe
from vistill.runs.fingerprint import config_text, fingerprint
from vistill.runs.lengthening import lengthening
from vistill.runs.probes import Probes
from vistill.runs.reading import Reading, on_device, require_samples
from vistill.runs.reports.run_page import report_run
from vistill.runs.results import PretrainResult, StudentResult, say, say_notes
from vistill.runs.stamping import compare_stamps
from vistill.runs.teacher_precision import settle_teacher
from vistill.stopping import Interrupted
from vistill.training.distributed import World, connect
from vistill.training.loggers import require_loggers
from vistill.training.loop import fit
from vistill.training.outlook import outlooks
from vistill.training.precision import tf32
from vistill.training.run_folder import RESULT, RunFolder, check_folder, read_marker
from vistill.training.state import FitResult
from vistill.training.target_fit import fit_targets


@dataclass(frozen=True)
class Prepared:
    """A run that is checked and built, while nothing is written yet."""

    adapted: Adapted
    world: World
    reading: Reading
    train: np.ndarray
    held_out: np.ndarray
    method: Method
    stream: TrainStream | MixtureStream
    target_fit: TargetFit | None
    planned: Sequence[Planned]
    num_classes: int | str
    give_back: Callable[[], None]

    @property
    def config(self) -> RunConfig:
        """The settings that it runs by."""
        return self.adapted.config

    @property
    def teacher_weights(self) -> str | None:
        """Where the teacher's weights come from; None without a teacher."""
        return None if self.method.teacher is None else self.method.teacher.origin

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What defines the run."""
        return {
            **fingerprint(self.config),
            "pictures": self.reading.source.fingerprint(),
            "teacher_weights": self.teacher_weights,
        }


def prepare(
    adapted: Adapted,
    reading: Reading,
    *,
    out: Path | None = None,
    teacher: Backbone | None = None,
    student: Backbone | None = None,
) -> Prepared:
    """Everything of one pre-training but its folder; a run that was begun in `out` is continued.

    Raises:
        UserError: see `vistill.api.pretrain`.
    """
    config = adapted.config
    world = connect(config.train.device)
    require_loggers(config.train.loggers)
    train, held_out = reading.split(config.data.held_out, config.seed)
    if config.data.device_crop:
        reading = replace(reading, train=on_device(reading, world.device))
    stream = _stream(config, reading, train, world)
    say_notes(reading.source.name, require_samples(reading))
    classes = _num_classes(reading, train)
    if config.students is None:
        method = build(config, teacher=teacher, student=student, num_classes=classes)
    else:
        method = build_several(config, teacher=teacher, num_classes=classes)
    if method.inputs is not None:
        reading = replace(reading, inputs=method.inputs)
    stream.use_inputs(reading.inputs)
    begun = None if out is None else world.once(lambda: read_marker(out))
    adapted, give_back = settle_teacher(adapted, method, world, reading, train, begun)
    config = adapted.config
    target_fit = method.target_fit(len(train))
    planned = plan_caches(config, method, Samples(reading, train, held_out), world)
    if planned:
        stream.use([one.cache for one in planned])
    for one in planned:
        say_notes(str(one.cache.folder), one.notes)
    if method.teacher is not None and teacher is None:  # of an object its owner keeps them
        keep_weights(method.teacher)
    built = method, stream, target_fit, planned
    return Prepared(adapted, world, reading, train, held_out, *built, classes, give_back)


def _num_classes(reading: Reading, train: np.ndarray) -> int | str:
    """How many classes the labels of the samples to train on tell apart; or why they do not."""
    source = reading.source
    if reading.parts:
        return "a mixture of sources has no classes of its own"
    if source.classes is None or source.labels is None or not (source.labels[train] >= 0).any():
        why = "" if source.unlabelled is None else f": {source.unlabelled.reason}"
        return f"{source.name} has none{why}; give one folder per class, or a list with labels"
    return len(source.classes)


def rehearse(run: Prepared, out: Path, *, overwrite: bool) -> None:
    """Print the settings and check the folder, without writing.

    Raises:
        UserError: the folder belongs to something else.
    """
    _compare(run, out, overwrite=overwrite)
    say("\n".join(describe(run)))
    run.give_back()


def run_pretraining(prepared: Prepared, out: Path, *, overwrite: bool = False) -> PretrainResult:
    """Run, or continue, one pre-training in `out`.

    Raises:
        UserError, TrainingError, Interrupted: see `vistill.api.pretrain`.
    """
    fast = prepared.adapted.asked.get("train.precision") == AUTO
    try:
        with tf32(fast):
            return _train(prepared, out, overwrite=overwrite)
    finally:
        prepared.give_back()
        for one in prepared.planned:
            say(f"cache    {one.close()}")


def _train(prepared: Prepared, out: Path, *, overwrite: bool) -> PretrainResult:
    origin = prepared.teacher_weights
    stamps = _compare(prepared, out, overwrite=overwrite)
    with RunFolder.open(
        out,
        fingerprint=prepared.fingerprint,
        config=config_text(prepared.config),
        asked=prepared.adapted.asked,
        world=prepared.world,
        overwrite=overwrite,
        environment={"teacher_weights": origin, "pictures": len(prepared.reading.source)},
    ) as run:
        if stamps is not None and not (out / STAMPS).exists():
            write_stamps(out, stamps)
        try:
            result = _train_in(run, prepared)
        except (Failure, Interrupted, UserError):
            report_run(prepared, out, finished=False)
            raise
        report_run(prepared, out, finished=True)
        return result


def _compare(prepared: Prepared, out: Path, *, overwrite: bool) -> Stamps | None:
    """Whether `out` is, or may become, the folder of this run with these very samples; the samples'
    stamps on rank 0.

    Raises:
        UserError: it belongs to something else, or samples were replaced.
    """
    source, planned, stamps = prepared.reading.source, prepared.planned, None

    def compare() -> tuple[list[str], str | None]:
        nonlocal stamps
        known = check_folder(out, prepared.fingerprint, overwrite=overwrite)
        known_ones = [one.stamps for one in planned]
        stamps = np.concatenate(known_ones) if known_ones else source.stamps()
        if not known:
            return [], None
        config, per_epoch = prepared.config, prepared.stream.steps_per_epoch
        notes = compare_stamps(out, source, stamps)
        return notes, lengthening(read_marker(out), config.optim, config.train, per_epoch)

    notes, longer = prepared.world.once(compare)
    say_notes(source.name, notes)
    if longer is not None:
        say_notes(str(out), [longer])
    return stamps


def _train_in(run: RunFolder, prepared: Prepared) -> PretrainResult:
    config, world, method, out = prepared.config, prepared.world, prepared.method, run.path
    continues = " (continues)" if run.resumed else ""
    say("\n".join([*describe(prepared), f"output   {out}{continues}"]))

    for planned in prepared.planned:
        say(f"cache    {planned.open(world)}")
    if prepared.target_fit is not None:
        say(f"fitted   {_fit_targets(prepared, prepared.target_fit, run)}")

    def export(name: str, which: str) -> None:
        broken = prepared.stream.broken.names
        if broken:
            text = json.dumps(broken, indent=2) + "\n"
            write_atomic(out / f"broken_{prepared.reading.source.media.noun}s.json", text)
        folder, student = out / "export" / name / which, method.exports[name]
        save_backbone(
            student,
            folder,
            origin=f"pre-trained by {config.method.name} (vistill {vistill.__version__})",
            untrained=False,
            teacher=prepared.teacher_weights,
            **({} if config.data.value_range is None else {"value_range": config.data.value_range}),
        )
        if method.reader is not None:
            save_text(method.reader, folder, **prepared.reading.told_of_text())

    fitted = fit(
        method,
        prepared.stream,
        optim=config.optim,
        train=config.train,
        seed=config.seed,
        run=run,
        on_evaluate=Probes(
            config,
            method,
            prepared.reading,
            prepared.train,
            prepared.held_out,
            world.device,
            workers=_workers(config, world),
            told=prepared.stream.broken.told,
            caches=[planned.cache for planned in prepared.planned],
        ),
        on_export=export,
    )
    for name, student in method.exports.items():
        student.origin, student.untrained = f"run {out / name}", False
    bests = {name: vars(best) for name, best in fitted.bests.items()}
    more = {name: _more(fitted, name) for name in method.exports}
    result = PretrainResult(
        out=out,
        backbone=out / "export" / next(iter(method.exports)) / "best",
        steps=fitted.steps,
        epochs=fitted.epochs,
        terms=fitted.terms,
        best=bests.get(""),
        doubt=fitted.doubts.get(""),
        seconds=fitted.seconds,
        students={
            name: StudentResult(
                out / "export" / name / "best",
                bests.get(name),
                fitted.doubts.get(name),
                more[name],
            )
            for name in method.exports
            if name
        },
        outlook=more.get(""),
    )
    if world.main:
        write_atomic(out / RESULT, result.to_json())
    return result


def _more(fitted: FitResult, name: str) -> dict[str, Any] | None:
    """What as many more epochs would bring to a student."""
    prefix = f"{name}/" if name else ""
    coming = outlooks(fitted.curves, 2 * fitted.epochs)
    best = fitted.bests.get(name)
    if best is None or (ahead := coming.get(f"{prefix}{best.metric}")) is None:
        return None
    return {"metric": best.metric, **asdict(ahead), "text": ahead.sentence(best.metric)}


def _stream(
    config: RunConfig, reading: Reading, indices: np.ndarray, world: World
) -> TrainStream | MixtureStream:
    data, train = config.data, config.train
    options: dict[str, Any] = {
        "seed": config.seed,
        "global_batch_size": train.global_batch_size,
        "micro_batch_size": train.micro_batch_size or max(1, train.global_batch_size // world.size),
        "rank": world.rank,
        "world_size": world.size,
        "workers": _workers(config, world),
        "timeout": data.timeout,
        "max_broken": data.max_broken,
        "repeats": reading.repeats,
    }
    if reading.parts:
        return MixtureStream(reading.parts, indices, **options)
    decode = reading.decode_train
    return TrainStream(reading.source, indices, reading.train, decode=decode, **options)


def _workers(config: RunConfig, world: World) -> int:
    workers = config.data.workers
    return default_workers(world.size) if workers is None else workers


def _fit_targets(prepared: Prepared, target_fit: TargetFit, run: RunFolder) -> str:
    """The method's pass over the training pictures, of which every rank reads its share."""
    config, world = prepared.config, prepared.world
    data, train = config.data, config.train
    mine = prepared.train[world.rank :: world.size]
    reading = prepared.reading
    broken = BrokenFiles(len(mine), data.max_broken, noun=reading.source.media.noun)
    train_view = target_fit.view == "train"
    caches = [planned.cache for planned in prepared.planned]

    def batches(after: int) -> Iterator[Batch]:
        return reading.eval_batches(
            mine[mine > after],
            train_view=train_view,
            batch_size=min(train.micro_batch_size or train.global_batch_size, 64),
            workers=_workers(config, world),
            timeout=data.timeout,
            broken=broken,
            caches=caches,
            view=next((0 if train_view else cache.test_view for cache in caches), None),
        )

    return fit_targets(
        prepared.method,
        target_fit,
        batches,
        run=run,
        world=world,
        checkpoint_minutes=train.checkpoint_minutes,
    )
