"""`evaluate`: any backbone measured by nearest neighbours, linear probe and fine-tuning."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.pretrain import read_overrides
from vistill.config.evaluation import EvaluateConfig
from vistill.config.loading import build_config
from vistill.files import local_path, write_atomic
from vistill.runs.measured import Asked
from vistill.runs.measuring import measure, require_use
from vistill.runs.places import require_writable, usual_parts
from vistill.runs.reference import backbone_reference, with_module
from vistill.runs.reports.attempting import attempt
from vistill.runs.reports.evaluation_page import page_of, write_evaluation
from vistill.runs.results import EvaluateResult, main_rank

if TYPE_CHECKING:
    from torch import nn

    from vistill.models.backbone import Backbone


def evaluate(
    backbone: "str | os.PathLike[str] | Backbone",
    *,
    data: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    protocols: Sequence[str] | None = None,
    labels: Sequence[float | str] | None = None,
    seeds: Sequence[int] | None = None,
    random_init: bool = False,
    out: str | os.PathLike[str] | None = None,
    model: "nn.Module | str | None" = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> EvaluateResult:
    """Measure a backbone on labelled pictures or clips.

    Args:
        backbone: a run folder, `run:DIR`, `file:PATH`, `timm/NAME:pretrained` or a `Backbone`.
        data: labelled pictures, or clips for a backbone of clips. A folder with `train/` and `val/`
            or `test/` is split that way; otherwise, without `test`, a stratified fifth is tested.
        test: labelled pictures to test on.
        protocols: any of `knn`, `linear`, `finetune`; or `test` or `robustness` alone, of a
            classifier that was trained before, on pictures as they are or corrupted;
            or `detection` alone, for which `data` is a folder of AVA's format;
            or `segmentation` alone, for which it is a folder of pictures and masks;
            or `boxes` alone, for which it is a folder of pictures with boxes (VOC's form, COCO's);
            or `retrieval` or `multiple-choice` alone, of a model of pictures and text, for which
            `data` has captions; or `questions` alone, of a run of umt_questions.
            None: `knn` and `linear`.
        labels: shares of the training labels, or `N/class`; None: all of them.
        seeds: each draws the labels, the head and the order; None: 0 alone.
        random_init: the same architecture with fresh weights, as a baseline.
        out: write the scores to this JSON file, and a page of them beside it.
        model: the module of your own that was the run's student, or `FILE.py:NAME` that makes it.
        overrides: further settings of `vistill.config.evaluation`, such as `finetune.epochs=100`.

    Raises:
        UserError: something to mend, told in one sentence before any work.
    """
    settings = read_overrides(overrides)
    usual: dict[str, Any] = {"protocols": ["knn", "linear"]}
    train = os.fspath(data)
    local_path(train)
    if test is not None:
        local_path(os.fspath(test), "the test data")
    elif "test" not in dict(settings):
        train, usual["test"] = usual_parts(train)
    flags = {
        "model": str(backbone) if isinstance(backbone, str | os.PathLike) else "object",
        "weights": "random" if random_init else None,
        "train": train,
        "test": None if test is None else os.fspath(test),
        "protocols": protocols and list(protocols),
        "budgets": labels and list(labels),
        "seeds": seeds and list(seeds),
    }
    settings += [(key, value) for key, value in flags.items() if value is not None]
    config = build_config(EvaluateConfig, usual, settings)
    require_use(config, os.fspath(data), None if test is None else os.fspath(test), random_init)
    reference, model = with_module(backbone_reference(backbone), model)
    page = None
    if out is not None:
        require_writable(Path(out))
        page = page_of(Path(out))

    result = measure(Asked(config, backbone, reference, model, os.fspath(data), random_init))
    if out is not None and page is not None and main_rank():
        write_atomic(Path(out), result.to_json())
        attempt(page, lambda: write_evaluation(result, page))
    return result
