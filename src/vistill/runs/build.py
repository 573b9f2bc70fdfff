"""From a checked configuration to a method with its students and its teacher."""

import torch

from vistill.config.multi_student import student_configs
from vistill.config.schema import RunConfig
from vistill.errors import UserError
from vistill.image_size import same_shape
from vistill.methods import build_method
from vistill.methods.base import Method
from vistill.methods.ingredients import Ingredients
from vistill.methods.multi_student import MultiStudent
from vistill.models.adapters.any_cnn import named_maps
from vistill.models.adapters.detectors import own_backbone
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone, load_backbone, load_teacher
from vistill.models.files.biases import fit_biases
from vistill.models.files.named_weights import load_named
from vistill.random import step_seed
from vistill.runs.custom import build_custom
from vistill.runs.memory import require_memory
from vistill.runs.text import reads_text, tokenizer_of, words_of
from vistill.training.optim import peak_lr


def build(
    config: RunConfig,
    *,
    teacher: Backbone | None = None,
    student: Backbone | None = None,
    untrained: bool = False,
    num_classes: int | str = "the pictures have no labels",
) -> Method:
    """The method with its student and teacher.

    Args:
        config: of one run (no chain).
        teacher: instead of `config.teacher.model`.
        student: instead of a fresh `config.student.model`.
        untrained: allow a teacher with random weights, whatever `config` says.
        num_classes: how many classes the labels tell apart; or why they do not.

    Raises:
        UserError: a model is unknown, its weights are missing, or the two do not fit together.
    """
    torch.manual_seed(config.seed)
    # Teacher and aligners draw for themselves, so that no student's size moves them.
    for_teacher, for_aligners = (step_seed(config.seed, before, 0) for before in (-1, -2))
    size, frames, sizes = config.data.image_size, config.data.frames, config.student
    require_memory(config)
    if student is None:
        student = create_backbone(
            sizes.model,
            image_size=size,
            num_frames=frames,
            **sizes.model_dump(exclude={"model", "drop_path", "init"}),
        )
    else:
        student = own_backbone(student, size, sizes.maps)
    if not same_shape(student.image_size, size):  # of an object, which would see it squeezed
        student = load_backbone(student, image_size=size, num_frames=frames)
    if sizes.init is not None:
        start = load_backbone(sizes.init, image_size=size, num_frames=frames)
        fitted = fit_biases(start.state_dict(), student.state_dict(), sizes.init)
        load_named(student, fitted, sizes.init)
    if (count := len(named_maps(student))) > 1 and config.method.name != "feature_distillation":
        raise UserError(
            f"{config.method.name} reads one map of its student, and student.maps names {count}; "
            "name the last alone (kdep matches others by method.stages), or use "
            "feature_distillation"
        )
    torch.manual_seed(for_teacher)
    if config.teacher.model is not None:
        teacher = load_teacher(
            teacher or config.teacher.model,
            weights="random" if untrained else config.teacher.weights,
            image_size=config.teacher.image_size or size,
            num_frames=frames,
        )
        named = not config.teacher.model.startswith("object:")  # of an object nobody knows
        if config.teacher.weights == "random" and named and not (teacher.untrained or untrained):
            raise UserError(
                f"teacher.weights=random (--teacher-weights) allows a teacher that nobody trained, "
                f"and the weights of {config.teacher.model} are trained; leave it out"
            )
    torch.manual_seed(for_aligners)
    given = Ingredients(
        config.method.name,
        student,
        teacher,
        config.method,
        config.teacher.block,
        config.teacher.drop_path,
        sizes.drop_path,
        num_classes,
        words_of(tokenizer_of(config.method)) if reads_text(config.method) else None,
    )
    return build_custom(given) if config.method.name == "custom" else build_method(given)


def build_several(
    config: RunConfig, *, teacher: Backbone | None = None, num_classes: int | str
) -> MultiStudent:
    """All of `config.students` around one teacher; see `build`.

    Raises:
        UserError: see `build`; or the method teaches one student at a time.
    """
    methods: dict[str, Method] = {}
    for name, own in student_configs(config).items():
        try:
            method = build(own, teacher=teacher, num_classes=num_classes)
        except UserError as error:
            raise UserError(f"students.{name}: {error}") from error
        method.peak_scale = _peak_lr(own) / _peak_lr(config)
        methods[name], teacher = method, method.teacher
    return MultiStudent(methods)


def _peak_lr(config: RunConfig) -> float:
    return peak_lr(config.optim, config.train.global_batch_size)
