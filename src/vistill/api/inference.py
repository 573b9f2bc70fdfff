"""`predict` and `embed`: what a trained model says about a folder of pictures or clips."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.export import load_backbone
from vistill.api.pretrain import read_overrides
from vistill.config.loading import build_config
from vistill.config.samples import EmbedConfig, SamplesConfig
from vistill.errors import UserError
from vistill.runs.embedding import feature_job
from vistill.runs.inference import InferenceResult, Job, check_out
from vistill.runs.reference import backbone_reference
from vistill.runs.samples import clips_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vistill.batch import Batch
    from vistill.data import Source
    from vistill.evaluation.rows import Rows
    from vistill.models.backbone import Backbone


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
        overrides: settings of `vistill.config.samples.SamplesConfig`, such as `workers=4`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
    """
    config = build_config(SamplesConfig, {}, read_overrides(overrides))
    file = check_out(Path(out), (".csv", ".parquet"), overwrite=overwrite)
    if top_k < 1:
        raise UserError(f"top_k must be 1 or more, not {top_k}")
    reference = backbone_reference(model)
    backbone = load_backbone(reference, image_size=config.image_size)

    from vistill.evaluation.row_files import write_predictions
    from vistill.evaluation.trained import trained_classifier

    clips = clips_of(config, backbone, str(reference), "")
    frames = None if clips is None else clips.frames
    trained = trained_classifier(backbone, reference, frames=frames)

    def compute(batch: "Batch") -> "Tensor":
        return trained(batch.unit_pixels()).double().softmax(dim=1)

    width, seen, how = len(trained.classes), trained.backbone, trained.interpolation
    job = Job(config, trained, seen, compute, clips, str(reference), width, "predictions", how)

    def write(rows: "Rows", source: "Source", _: Path) -> None:
        most = min(top_k, len(trained.classes))
        write_predictions(rows, source, trained.classes, most, file)

    return job.run(os.fspath(data), file, write)


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
        overrides: settings of `vistill.config.samples.EmbedConfig`, such as `pool=cls`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
    """
    config = build_config(EmbedConfig, {}, read_overrides(overrides))
    file = check_out(Path(out), (".parquet", ".npy", ".npz"), overwrite=overwrite)
    job = feature_job(config, model, into)

    from vistill.evaluation.row_files import write_features

    def write(rows: "Rows", source: "Source", folder: Path) -> None:
        write_features(rows, source, file, folder)

    return job.run(os.fspath(data), file, write)
