"""A trained model looks at every picture or clip of a folder once, and a file says what it saw."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from vistill.config.clip_recipes import ClipSettings
from vistill.config.samples import SamplesConfig
from vistill.errors import UserError
from vistill.image_size import plain_size
from vistill.runs.results import main_rank, say
from vistill.runs.samples import as_trained, open_samples

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.evaluation.inputs import Inputs
    from vistill.evaluation.rows import Rows
    from vistill.models.backbone import Normalization
    from vistill.training.distributed import World

_SHOWN = 10


@dataclass(frozen=True)
class InferenceResult:
    """What came of a folder.

    Attributes:
        out: the file.
        samples: rows of it.
        noun: what a sample is.
        broken: names of samples that cannot be read, and why.
    """

    out: Path
    samples: int
    noun: str
    broken: Mapping[str, str]

    def __str__(self) -> str:
        first = f"{counted(self.samples, self.noun)}: {self.out}"
        return "\n".join([first, *left_out(self.broken, self.noun)])


def counted(count: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def left_out(broken: Mapping[str, str], noun: str) -> list[str]:
    """Lines on samples that cannot be read."""
    if not broken:
        return []
    lines = [f"left out, since unreadable: {counted(len(broken), noun)}"]
    lines += [f"  {name}: {reason}" for name, reason in list(broken.items())[:_SHOWN]]
    return lines + ([f"  and {len(broken) - _SHOWN} more"] if len(broken) > _SHOWN else [])


class Seen(Protocol):
    """What a job has to know of a model."""

    image_size: tuple[int, int]
    normalization: "Normalization"


@dataclass
class Job:
    """A model that looks at every sample once, on all ranks.

    Attributes:
        config: how samples are read.
        module: moved to the device.
        model: tells what is shown to it.
        compute: one row of numbers per view of a batch.
        clips: how clips are taken; None for pictures.
        reference: of the model.
        width: numbers of a row.
        interpolation: how pictures are resized.
        what: a row is, for people; it also tells rows of one kind from others.
    """

    config: SamplesConfig
    module: "nn.Module"
    model: Seen
    compute: "Callable[[Batch], Tensor]"
    clips: ClipSettings | None
    reference: str
    width: int
    what: str
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        if self.clips is None:
            self.config = as_trained(self.config, self.reference)

    @property
    def inputs(self) -> "Inputs":
        """How samples are shown."""
        from vistill.evaluation.inputs import Inputs

        return Inputs(self.model.image_size, self.clips, self.config.timeout)

    @property
    def world(self) -> "World":
        """The ranks."""
        from vistill.training.distributed import connect

        return connect(self.config.device)

    def made_with(self) -> tuple[str, dict[str, Any]]:
        """A hash of the weights, and what else makes the numbers."""
        config, normalization = self.config, self.model.normalization
        return digest(self.module), {
            "size": plain_size(self.model.image_size),
            "clips": list(self.clips or ()),
            "interpolation": self.interpolation,
            "value_range": config.value_range and list(config.value_range),
            "pool": getattr(config, "pool", None),
            "normalization": [list(normalization.mean), list(normalization.std)],
            "what": self.what,
        }

    def open(self, data: str) -> "Source":
        """The samples at a path, of which a few are looked at."""
        self.world  # noqa: B018, CUDA that is missing is told before anything is read
        source = open_samples(self.config, data, "image" if self.clips is None else "video")
        self.inputs.require(source)
        return source

    def fill(
        self,
        source: "Source",
        folder: Path,
        finish: "Callable[[Rows], None]",
        *,
        needed: bool = True,
        in_parts: bool = False,
    ) -> "Rows":
        """Compute the rows that are not in `folder` yet, and delete it once rank 0 is through with
        `finish`.

        With `needed` it is an error if none of the samples can be read; `in_parts` says that many
        of them follow each other in one video.
        """
        from vistill.data import default_workers
        from vistill.evaluation.rows import RowFile, fill
        from vistill.locking import locked

        config, inputs, world = self.config, self.inputs, self.world
        samples = max(1, (config.batch_size or inputs.at_once) // inputs.views)
        transform, decode = inputs.testing(self.interpolation)
        if in_parts:
            from vistill.data.video.clips import ClipDecoder
            from vistill.data.video.windows import KeptOpen

            assert isinstance(decode, ClipDecoder)
            decode = KeptOpen(decode)
        weights, made = self.made_with()
        made_for = {
            "weights": weights,
            "source": source.fingerprint(),
            "inputs": made,
            "options": [config.allow_truncated, samples],
        }
        file = RowFile(folder, made_for, len(source), self.width)
        with locked(folder if world.main else None):
            there = world.once(file.prepare)
            if there:
                say(f"{there} of {len(source)} {source.media.noun}s were done before")
            rows = fill(
                file,
                self.module,
                self.compute,
                source,
                view=(transform, decode),
                views=inputs.views,
                samples=samples,
                workers=default_workers(world.size) if config.workers is None else config.workers,
                timeout=config.timeout,
                world=world,
                what=self.what,
                needed=needed,
            )
            world.once(lambda: finish(rows))
            _let_go(world)
        if world.main:
            file.delete()
        return rows

    def run(
        self, data: str, out: Path, write: "Callable[[Rows, Source, Path], None]"
    ) -> InferenceResult:
        """Compute what is missing and write the file."""
        from vistill.evaluation.rows import unfinished

        source, folder = self.open(data), unfinished(out)
        rows = self.fill(source, folder, lambda rows: write(rows, source, folder))
        return InferenceResult(out, len(rows.ids), source.media.noun, rows.broken)


def _let_go(world: "World") -> None:
    """Wait for the others, who may still have the files open."""
    world.gather(None)


def check_out(out: Path, kinds: tuple[str, ...], *, overwrite: bool) -> Path:
    """The file to write.

    Raises:
        UserError: it is there already, or cannot be written.
    """
    if out.suffix not in kinds:
        raise UserError(f"{out} must end in {' or '.join(kinds)}, which is its format")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise UserError(f"folder {out.parent} does not exist")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file to write")
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already; name a new file, or --overwrite")
    if main_rank() and not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to the folder {out.parent}")
    if out.suffix == ".parquet":
        from vistill.data.parquet import require_parquet

        require_parquet()
    return out


def digest(module: "nn.Module") -> str:
    """A hash of all weights."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy())
    return digest.hexdigest()
