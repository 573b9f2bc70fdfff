"""The evaluator of object detection on pictures with boxes."""

from typing import TYPE_CHECKING

from vistill.config.evaluation import EvaluateConfig
from vistill.errors import UserError
from vistill.files import local_path
from vistill.runs.measured import Named
from vistill.runs.results import Table, say_notes
from vistill.runs.samples import source_of_files

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone
    from vistill.training.distributed import World


def find_things(
    model: "Named[Backbone]", data: str, config: EvaluateConfig, world: "World"
) -> Table:
    """The evaluator `boxes`.

    Args:
        model: a backbone of pictures.
        data: a folder of pictures and annotations.
        config: all settings.
        world: the ranks, which share every batch and the test pictures.

    Raises:
        UserError: no pictures, boxes or classes, or what does not go together.
    """
    from vistill.evaluation.boxes.shapes import require_coco

    require_coco()
    from vistill.evaluation.boxes.annotations import find_boxed
    from vistill.evaluation.boxes.find import evaluate_boxes

    folder = local_path(data)
    if not folder.is_dir():
        raise UserError(f"{data} is no folder; boxes reads folders of pictures and annotations")
    parts = find_boxed(folder, config.boxes)
    for part in parts:
        say_notes(data, part.notes)
    opened = [(source_of_files(str(folder), part.pictures, config), part) for part in parts]
    scores = evaluate_boxes(model.model, opened[0], opened[1], config, world=world)
    return {"boxes": tuple(scores)}
