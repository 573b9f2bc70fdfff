"""`predict` and `embed`: what a trained model says about a folder of pictures or clips."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vistill.api.export import backbone_reference, load_backbone, with_module
from vistill.api.pretrain import read_overrides
from vistill.config.clip_recipes import ClipSettings
from vistill.config.evaluation import EmbedConfig, SamplesConfig
from vistill.config.loading import build_config
from vistill.errors import UserError
from vistill.image_size import plain_size
from vistill.runs.results import main_rank, say, say_notes
from vistill.runs.samples import clips_of, open_samples, trained_on

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


def predict(
    model: "str | os.PathLike[str]",
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    top_k: int = 5,
    overwrite: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> InferenceResult:
    """Write the likeliest classes of every picture or clip, with their probabilities.

    Clips are seen as in tests: the probabilities of all views are averaged. The same call continues
    an interrupted one; the ranks of `torchrun` share the work and write the same file.

    Args:
        model: a model with a classifier, as for `load_classifier`.
        data: pictures, or clips for a model of clips.
        out: `.csv` or `.parquet` with columns `path`, `label` where there are labels, and
            `class_1`, `probability_1` to `class_K`, `probability_K`.
        top_k: how many classes are told, at most all.
        overwrite: replace an existing file.
        overrides: settings of `vistill.config.evaluation.SamplesConfig`, such as `workers=4`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
    """
    config = build_config(SamplesConfig, {}, read_overrides(overrides))
    file = _check_out(Path(out), (".csv", ".parquet"), overwrite=overwrite)
    if top_k < 1:
        raise UserError(f"top_k must be 1 or more, not {top_k}")
    reference = backbone_reference(model)
    backbone = load_backbone(reference)

    from vistill.evaluation.row_files import write_predictions
    from vistill.evaluation.trained import trained_classifier

    clips = clips_of(config, backbone, str(reference), "")
    frames = None if clips is None else clips.frames
    trained = trained_classifier(backbone, reference, image_size=config.image_size, frames=frames)

    def compute(batch: "Batch") -> "Tensor":
        return trained(batch.unit_pixels()).double().softmax(dim=1)

    job = _Job(config, trained, trained.backbone, compute, clips, str(reference))
    interpolation = "bicubic" if trained.head is None else trained.head.interpolation

    def write(rows: "Rows", source: "Source", _: Path) -> None:
        most = min(top_k, len(trained.classes))
        write_predictions(rows, source, trained.classes, most, file)

    return job.run(os.fspath(data), file, write, len(trained.classes), interpolation, "predictions")


def embed(
    model: "str | os.PathLike[str] | Backbone",
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    into: "nn.Module | str | None" = None,
    overwrite: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> InferenceResult:
    """Write the feature of every picture or clip that nearest neighbours and linear probe see.

    Clips are seen in one view in their middle; with `clips=5 crops=3` features of all views are
    averaged. The same call continues an interrupted one; the ranks of `torchrun` share the work and
    write the same file.

    Args:
        model: a backbone, as for `load_backbone`.
        data: pictures, or clips for a model of clips.
        out: `.parquet` (columns `path`, `label` where there are labels, `feature`), `.npz`
            (`features`, `paths`, `labels`) or `.npy`, which can be mapped into memory, with
            `FILE.npy.csv` to tell its rows.
        into: the module of your own that was the run's student, or `FILE.py:NAME` that makes it.
        overwrite: replace an existing file.
        overrides: settings of `vistill.config.evaluation.EmbedConfig`, such as `pool=cls`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
    """
    config = build_config(EmbedConfig, {}, read_overrides(overrides))
    file = _check_out(Path(out), (".parquet", ".npy", ".npz"), overwrite=overwrite)
    reference, into = with_module(backbone_reference(model), into)
    backbone = load_backbone(reference, into=into)
    if backbone.untrained:
        raise UserError(
            f"{model} would have random weights; write timm/NAME:pretrained, run:DIR or file:PATH"
        )

    from vistill.evaluation.classifier import prepare_backbone
    from vistill.evaluation.features import pooling
    from vistill.evaluation.row_files import write_features

    source_name = reference if isinstance(reference, str) else "an object"
    clips = clips_of(config, backbone, source_name, "")
    if clips is not None:
        clips = clips._replace(clips=config.clips or 1, crops=config.crops or 1)
    if config.pool == "cls" and ("norm" not in backbone.taps or not backbone.num_prefix_tokens):
        raise UserError(
            f"this backbone ({backbone.origin}) has no class token behind a final norm; "
            "set pool=avg"
        )
    frames = None if clips is None else clips.frames
    size = config.image_size or backbone.image_size
    ready = prepare_backbone(backbone, size, config.pool, frames)
    job = _Job(config, ready, ready, pooling(ready, config.pool), clips, source_name)

    def write(rows: "Rows", source: "Source", folder: Path) -> None:
        write_features(rows, source, file, folder)

    return job.run(os.fspath(data), file, write, ready.width, "bicubic", "features")


@dataclass
class _Job:
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

        config, size = self._as_trained(), self.backbone.image_size
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

    def _as_trained(self) -> SamplesConfig:
        """The settings, with the range of values that the model was trained with."""
        trained = trained_on(self.reference).get("value_range")
        if self.clips is not None or self.config.value_range is not None or not trained:
            return self.config
        say_notes(self.reference, [f"value_range={trained}, as it was trained"])
        return self.config.model_copy(update={"value_range": tuple(trained)})


def _let_go(world: "World") -> None:
    """Wait for the others, who may still have the files open."""
    world.gather(None)


def _check_out(out: Path, kinds: tuple[str, ...], *, overwrite: bool) -> Path:
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
