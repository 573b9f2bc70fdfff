"""A student's class scores: classifiers, and losses against labels and a teacher's scores."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.config.baselines import LogitKDConfig
from vistill.config.methods import KDEPConfig
from vistill.errors import UserError
from vistill.losses.baselines import label_cross_entropy, logits_kl
from vistill.methods.side import Side
from vistill.models.backbone import Tap


def score_tap(teacher: Side, setting: str) -> Tap:
    """The tap of the teacher's class scores.

    Args:
        teacher: whose they are.
        setting: what asks for them, for the error.

    Raises:
        UserError: it comes without its classifier.
    """
    if "logits" not in teacher.model.taps:
        raise UserError(
            f"{setting} needs a teacher with its classifier; write ,classifier=keep behind its "
            "name, such as teacher.model=file:PATH,classifier=keep"
        )
    return teacher.tap("logits")


def classifiers(
    width: int, teacher_classes: int | None, label_classes: int | None
) -> tuple[nn.Linear | None, nn.Linear | None]:
    """The student's classifiers, which are thrown away after training: for the teacher's scores and
    for the labels, unless one does for both.

    Args:
        width: of the feature.
        teacher_classes: how many the teacher's scores are; None: they are not compared.
        label_classes: how many the labels tell apart; None: they are not learned.
    """
    logits = None if teacher_classes is None else nn.Linear(width, teacher_classes)
    shared = label_classes is None or label_classes == teacher_classes
    return logits, None if shared else nn.Linear(width, label_classes or 0)


def score_terms(
    config: KDEPConfig | LogitKDConfig,
    heads: tuple[nn.Linear | None, nn.Linear | None],
    feature: Float[Tensor, "b d"],
    target: Float[Tensor, "b c"] | None,
    labels: Int[Tensor, " b"] | None,
) -> dict[str, tuple[float, Tensor]]:
    """Weight and loss by name of the student's scores, against the teacher's and the labels."""
    terms: dict[str, tuple[float, Tensor]] = {}
    classifier, label_classifier = heads
    scores = None if classifier is None else classifier(feature)
    if scores is not None and target is not None:
        heat, share = config.logits_temperature, config.logits_entropy
        terms["logits"] = config.logits_weight, logits_kl(scores, target, heat, share)
    if config.labels_weight and labels is not None:
        scores = scores if label_classifier is None else label_classifier(feature)
        assert scores is not None
        terms["labels"] = config.labels_weight, label_cross_entropy(scores, labels)
    return terms
