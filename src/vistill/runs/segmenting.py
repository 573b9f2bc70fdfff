"""The evaluator of semantic segmentation on folders of pictures and masks."""

from pathlib import Path
from typing import TYPE_CHECKING

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.files import local_path
from vistill.runs.measured import Named
from vistill.runs.results import Table
from vistill.runs.samples import source_of_files

if TYPE_CHECKING:
    from vistill.data import Source
    from vistill.evaluation.segmentation.layouts import Pairs
    from vistill.models.backbone import Backbone
    from vistill.training.distributed import World


def segment(model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World") -> Table:
    """The evaluator `segmentation`.

    Args:
        model: a backbone of pictures.
        data: a folder of pictures and masks.
        config: all settings.
        world: the ranks, which share every batch and the test pictures.

    Raises:
        UserError: no pictures, masks or classes, or what does not go together.
    """
    from vistill.evaluation.segmentation.segment import evaluate_segmentation

    folder = local_path(data)
    if not folder.is_dir():
        raise UserError(f"{data} is no folder; segmentation reads folders of pictures and masks")
    parts = [_opened(folder, config, test=test) for test in (False, True)]
    scores = evaluate_segmentation(model.model, parts[0], parts[1], config, world=world)
    return {"segmentation": tuple(scores)}


def _opened(folder: Path, config: EvaluateConfig, *, test: bool) -> "tuple[Source, Pairs]":
    from vistill.evaluation.segmentation.crops import require_masks
    from vistill.evaluation.segmentation.layouts import find_pairs

    pairs = find_pairs(folder, config.segmentation, test=test)
    require_masks(pairs)
    return source_of_files(str(folder), pairs.pictures, config), pairs
