"""The cache of a run's teacher: what it must have been made for, and a look at the live teacher."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistill.batch import Batch
from vistill.config.schema import RunConfig
from vistill.data import BrokenFiles, Source
from vistill.data.cache import FORMAT, TeacherCache, read_index
from vistill.data.mixture import Part
from vistill.data.records import Record, record_of
from vistill.data.stamps import Stamps, changed, names, read_stamps, write_stamps
from vistill.errors import UserError
from vistill.files import byte_size
from vistill.image_size import height_width
from vistill.methods.base import Method
from vistill.methods.shared_view import SharedView
from vistill.models.backbone import Backbone
from vistill.runs.reading import Reading
from vistill.training.distributed import World
from vistill.training.run_folder import difference

_TRANSFORM = {"image_size", "crop_scale", "crop_ratio", "interpolation", "flip", "value_range"}
_CLIPS = {"frames", "stride", "sampling", "crop", "device_crop"}
_CHECKED = 16
"""Records, over all views, that are compared with the live teacher."""
_WRONG = {"int4": 0.15}
"""Relative error of a record beyond that of its rounding, by precision: it belongs to another
picture or teacher."""
_WRONG_ELSE = 0.05
_NONE = np.empty(0, dtype=np.int64)
_MADE_FOR = {
    "teacher": "another teacher",
    "pictures": "other pictures",
    "transform": "another transform",
    "observed": "another output of the teacher",
    "computed": "a teacher in another type",
    "stored": "other records",
}


@dataclass(frozen=True)
class Samples:
    """What a run trains and is tested on, and how it is read."""

    reading: Reading
    train: np.ndarray
    held_out: np.ndarray

    @property
    def source(self) -> Source:
        """Of all of them."""
        return self.reading.source

    def of(self, part: Part) -> "Samples":
        """Those of one source of a mixture."""
        train, held_out = (part.own(which) - part.first for which in (self.train, self.held_out))
        return Samples(self.reading.alone(part), train, held_out)


@dataclass(frozen=True)
class Planned:
    """A cache that fits its run, before anything is written.

    Attributes:
        cache: not open to write yet.
        index: what it is made for.
        found: records that are there already, over all views.
        wanted: records that the run will need.
        error: largest relative error of the records that were compared with the live teacher.
        stamps: of all pictures.
        replaced: pictures that were replaced since their records were made.
        notes: sentences on these, and on pictures that may have been.
    """

    cache: TeacherCache
    index: dict[str, Any]
    found: int
    wanted: int
    error: float
    stamps: Stamps
    replaced: np.ndarray
    notes: list[str]

    def open(self, world: World) -> str:
        """Make or open the files, one rank for all; a line that says what is there.

        Raises:
            UserError: the folder cannot be written to.
        """
        cache = self.cache

        def open_one() -> bool:
            writes = cache.open_to_write(self.index)
            # Another run may have made the files since they were planned.
            refuse_another(cache.folder, read_index(cache.folder) or {}, self.index)
            self._renew(writes)
            return writes

        cache.writes = world.once(open_one)
        cache.read_pictures = cache.computed_pictures = 0  # the check does not count
        layout = cache.layout
        text = (
            f"{cache.folder}: {self.found} of {self.wanted} records, {layout.nbytes} bytes each "
            f"in {layout.precision}, {cache.bytes_per_picture} per picture with {cache.views} views"
        )
        if self.found:
            text += f"; off the teacher by {self.error:.2g} at most"
        return text if cache.writes else f"{text}; another run writes, this one reads"

    def _renew(self, writes: bool) -> None:
        """Forget records of pictures that were replaced."""
        folder, stale = self.cache.folder, len(self.replaced)
        if stale and not writes:
            raise UserError(
                f"{self.notes[0]}, but another run writes to the cache {folder}; wait for its end, "
                "or choose another folder"
            )
        if not writes or (read_stamps(folder, len(self.stamps)) is not None and not stale):
            return
        try:
            self.cache.forget(self.replaced)
            write_stamps(folder, self.stamps)  # after them: a kill in between forgets them again
        except OSError as error:
            raise UserError(f"cannot write to the cache {folder}: {error.strerror}") from error

    def close(self) -> str:
        """Bring everything to the disk; a line that says how much was read."""
        cache = self.cache
        seen = cache.read_pictures + cache.computed_pictures
        cache.close()
        return f"{cache.read_pictures} of {seen} outputs of the teacher were read, not computed"


def plan_caches(
    config: RunConfig, method: Method, samples: Samples, world: World
) -> Sequence[Planned]:
    """The cache that `config` asks for, of a mixture one for each source in a folder of its name;
    or none. Nothing is written.

    Raises:
        UserError: the method cannot use one; there is one that was made for something else, is
            damaged or disagrees with the teacher; or the disk is too small.
    """
    settings = config.cache
    if settings.path is None:
        return []
    teacher = method.teacher
    if teacher is None:
        raise UserError(f"{config.method.name} has no teacher, so cache={settings.path} has no use")
    # Where the cache is complete, the teacher is only needed to check it, and may be large.
    method.teacher_rests = True
    if not isinstance(method, SharedView):
        raise UserError(
            f"what {config.method.name} reads of its teacher is no function of the view of a "
            f"sample alone, so it cannot be cached; leave cache={settings.path} out"
        )
    if teacher.training:
        raise UserError(
            "the teacher's drop path is random, so its outputs cannot be cached; "
            "set teacher.drop_path=0 or leave the cache out"
        )
    folder, key = Path(settings.path).expanduser(), method.cache_key()
    wanted = [(config, folder, samples)]
    if parts := samples.reading.parts:
        wanted = [(_alone(config, part), folder / part.name, samples.of(part)) for part in parts]
    return world.once(
        lambda: [_plan(one, place, method, teacher, key, of, world) for one, place, of in wanted]
    )


def _alone(config: RunConfig, part: Part) -> RunConfig:
    return config.model_copy(update={"data": config.data.of_source(part.name)})


def _plan(
    config: RunConfig,
    folder: Path,
    method: SharedView,
    teacher: Backbone,
    key: dict[str, Any],
    samples: Samples,
    world: World,
) -> Planned:
    settings = config.cache
    layout = _layout(config, method, teacher)
    repeats = config.data.repeats
    views = settings.views * repeats
    cache = TeacherCache(folder, layout, views, len(samples.source), repeats)
    clips = set() if config.data.frames is None else _CLIPS
    copies = set() if repeats == 1 else {"repeats"}
    transform = config.data.model_dump(mode="json", include=_TRANSFORM | clips | copies)
    index = {
        "format": FORMAT,
        "teacher": teacher_identity(teacher),
        "pictures": samples.source.fingerprint(),
        "transform": {key: value for key, value in transform.items() if value is not None},
        "computed": _computed(teacher),
        "observed": {name: _plain(value) for name, value in key.items()},
        "stored": {
            "views": cache.views,
            "precision": layout.precision,
            "shape": layout.described(),
        },
    }
    there, stamps = read_index(folder), samples.source.stamps()
    replaced, suspects, notes = _NONE, _NONE, list[str]()
    if there is not None:
        refuse_another(folder, there, index)
        cache.check_files()
        replaced, suspects, notes = _compared(folder, samples.source, stamps)
    found = [] if there is None else _found(cache, samples, replaced)
    wanted = cache.views * len(samples.train) + len(samples.held_out)
    count = sum(len(ids) for _, ids in found)
    _check_space(folder, (wanted - count) * layout.nbytes)
    home = next(teacher.parameters()).device
    method.to_device(world.device)
    each = max(1, _CHECKED // max(1, len(found)))
    few = [(view, _chosen(ids, each, suspects)) for view, ids in found if len(ids)]
    error = max(
        (_check_view(cache, method, samples, view, ids, world) for view, ids in few), default=0.0
    )
    teacher.to(home)
    return Planned(cache, index, count, wanted, error, stamps, replaced, notes)


def _compared(
    folder: Path, source: Source, stamps: Stamps
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Pictures whose records are to be made anew, those to be compared first, and what to say.

    Where the time of change alone differs, and of most pictures, they were copied; of a few, these
    were replaced.

    Raises:
        UserError: most pictures are others.
    """
    before = read_stamps(folder, len(source))
    if before is None:
        return _NONE, _NONE, []
    surely, perhaps = changed(before, stamps)
    if 2 * len(surely) > len(source):
        raise UserError(
            f"the cache {folder} was made for other pictures: {len(surely)} of {len(source)} have "
            f"been replaced under their names ({names(source, surely)}); choose another folder for "
            "this run"
        )
    if 2 * len(perhaps) <= len(source):
        surely, perhaps = np.union1d(surely, perhaps), _NONE
    notes = []
    if len(surely):
        notes.append(
            f"{len(surely)} of {len(source)} pictures have been replaced since the cache was made "
            f"({names(source, surely)}): the teacher looks at them again"
        )
    if len(perhaps):
        notes.append(
            f"{len(perhaps)} of {len(source)} pictures are as large as when the cache was made, "
            f"but were written at another time ({names(source, perhaps)}); they are taken for "
            "copies of the same"
        )
    return surely, perhaps, notes


def teacher_identity(teacher: Backbone) -> dict[str, Any]:
    """What makes a teacher this teacher, wherever its file is: a hash of its weights, and sizes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy())
    return {
        "weights": digest.hexdigest(),
        "num_heads": sorted(set(teacher.num_heads)),
        "image_size": list(teacher.image_size),
        "mean": list(teacher.normalization.mean),
        "std": list(teacher.normalization.std),
    }


def refuse_another(folder: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise the UserError of a cache that was made for something else."""
    for key, what in _MADE_FOR.items():
        changed = difference({key: there.get(key)}, {key: wanted[key]})
        if changed:
            kept = str(there.get(key)).split()[0]
            instead = f", or teacher.precision={kept}" if key == "computed" else ""
            raise UserError(
                f"the cache {folder} was made for {what} ({changed}); choose another folder for "
                f"this run{instead}"
            )


def _computed(teacher: Backbone) -> str:
    """The type that the teacher computes in; with int8 also that of the rest of it."""
    if teacher.precision != "int8" or teacher.computes_in is None:
        return teacher.precision or "fp32"
    return f"int8 beside {str(teacher.computes_in).removeprefix('torch.')}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _layout(config: RunConfig, method: SharedView, teacher: Backbone) -> Record:
    """How a record is written, found by a look at a black picture or clip.

    Raises:
        UserError: it cannot be written in the precision that is asked for.
    """
    data, place = config.data, next(teacher.parameters()).device
    one = torch.zeros(1, dtype=torch.int64, device=place)
    size = (*([] if data.frames is None else [data.frames]), *height_width(data.image_size))
    black = torch.zeros(1, 3, *size, dtype=torch.uint8, device=place)
    with torch.no_grad():
        said = method.teacher_features(Batch(black, seeds=one, ids=one))
    if isinstance(said, dict) and not said:
        raise UserError(
            f"these losses of {config.method.name} read nothing of the teacher, so "
            f"cache={config.cache.path} has no use"
        )
    try:
        return record_of(said, config.cache.precision)
    except ValueError:
        raise UserError(
            f"cache.precision={config.cache.precision} scales the channels of a map, but this "
            "teacher's output is one vector per picture; use bf16"
        ) from None


def _found(
    cache: TeacherCache, samples: Samples, replaced: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Which pictures have a record that still holds, for every view."""
    views = [(view, samples.train) for view in range(cache.views)]
    views.append((cache.test_view, samples.held_out))
    return [
        (view, np.setdiff1d(ids[cache.written(view)[ids] > 0], replaced)) for view, ids in views
    ]


def _check_space(folder: Path, needed: int) -> None:
    above = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise UserError(
            f"the cache {folder} needs {byte_size(needed)} more and the disk has {byte_size(free)} "
            "free; lower cache.views, set cache.precision, or choose another disk"
        )


def _spread(count: int, most: int) -> np.ndarray:
    """Up to `most` positions, evenly from first to last."""
    return np.linspace(0, count - 1, min(most, count)).astype(int)


def _chosen(ids: np.ndarray, most: int, suspects: np.ndarray) -> np.ndarray:
    """Up to `most` of the pictures, suspects first."""
    first = np.intersect1d(ids, suspects)
    first = first[_spread(len(first), most)]
    rest = np.setdiff1d(ids, first)
    return np.concatenate([first, rest[_spread(len(rest), most - len(first))]])


@torch.no_grad()
def _check_view(
    cache: TeacherCache,
    method: SharedView,
    samples: Samples,
    view: int,
    few: np.ndarray,
    world: World,
) -> float:
    """Largest relative error of `few` records of a view against the live teacher.

    Raises:
        UserError: one of them is of another picture or teacher, or damaged.
    """
    test = view == cache.test_view
    batches = samples.reading.eval_batches(
        few,
        train_view=not test,
        batch_size=_CHECKED,
        workers=0,
        broken=BrokenFiles(len(few), max_share=1.0),
        caches=[cache],
        view=view,
    )
    worst = 0.0
    for batch in batches:
        seen = method.view(batch.to(world.device), augment=not test)
        cached, live = method.features(seen), method.live_features(seen)
        rounded = cache.layout.decode(cache.layout.encode(live))
        worst = max(worst, float(method.disagreement(cached, live).max()))
        errors = method.disagreement(cached, rounded)
        errors = errors.nan_to_num(nan=torch.inf)  # `max` of Python would pass it over
        wrong = float(errors.max())
        if wrong > _WRONG.get(cache.layout.precision, _WRONG_ELSE):
            name = samples.source.sample_name(int(batch.ids[int(errors.argmax())]))
            raise UserError(
                f"the cache {cache.folder} disagrees with the teacher on {name}, by "
                f"{100 * wrong:.3g} %: the picture has changed or the cache is damaged; delete the "
                "folder, or choose another"
            )
    return worst
