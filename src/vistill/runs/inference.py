"""A trained model looks at every picture or clip of a folder once, and a file says what it saw."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    from vistill.evaluation.rows import Rows
    from vistill.models.backbone import Backbone
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
        lines = [f"{self._counted(self.samples)}: {self.out}"]
        if self.broken:
            lines.append(f"left out, since unreadable: {self._counted(len(self.broken))}")
            shown = list(self.broken.items())[:_SHOWN]
            lines += [f"  {name}: {reason}" for name, reason in shown]
            if len(self.broken) > _SHOWN:
                lines.append(f"  and {len(self.broken) - _SHOWN} more")
        return "\n".join(lines)

    def _counted(self, count: int) -> str:
        return f"{count} {self.noun}{'' if count == 1 else 's'}"


@dataclass
class Job:
    """A model that looks at every sample once, on all ranks."""

    config: SamplesConfig
    module: "nn.Module"
    backbone: "Backbone"
    compute: "Callable[[Batch], Tensor]"
    clips: ClipSettings | None
    reference: str

    def run(
        self,
        data: str,
        out: Path,
        write: "Callable[[Rows, Source, Path], None]",
        width: int,
        interpolation: Literal["bicubic", "bilinear"],
        what: str,
    ) -> InferenceResult:
        """Compute what is missing and write the file."""
        from vistill.data import default_workers
        from vistill.evaluation.inputs import Inputs
        from vistill.evaluation.rows import RowFile, fill, unfinished
        from vistill.locking import locked
        from vistill.training.distributed import connect

        config, size = self.config, self.backbone.image_size
        if self.clips is None:
            config = as_trained(config, self.reference)
        world = connect(config.device)
        source = open_samples(config, data, "image" if self.clips is None else "video")
        inputs = Inputs(size, self.clips, config.timeout)
        inputs.require(source)
        samples = max(1, (config.batch_size or inputs.at_once) // inputs.views)
        made_for = {
            "weights": _digest(self.module),
            "source": source.fingerprint(),
            "inputs": [plain_size(size), list(self.clips or ()), interpolation, config.value_range],
            "options": [config.allow_truncated, getattr(config, "pool", None), samples, what],
            "normalization": [self.backbone.normalization.mean, self.backbone.normalization.std],
        }
        folder = unfinished(out)
        file = RowFile(folder, made_for, len(source), width)
        with locked(folder if world.main else None):
            there = world.once(file.prepare)
            if there:
                say(f"{there} of {len(source)} {source.media.noun}s were done before")
            rows = fill(
                file,
                self.module,
                self.compute,
                source,
                view=inputs.testing(interpolation),
                views=inputs.views,
                samples=samples,
                workers=default_workers(world.size) if config.workers is None else config.workers,
                timeout=config.timeout,
                world=world,
                what=what,
            )
            world.once(lambda: write(rows, source, folder))
            result = InferenceResult(out, len(rows.ids), source.media.noun, rows.broken)
            _let_go(world)
        if world.main:
            file.delete()
        return result


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


def _digest(module: "nn.Module") -> str:
    """A hash of all weights."""
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().flatten()
        digest.update(plain.view(torch.uint8).numpy())
    return digest.hexdigest()
