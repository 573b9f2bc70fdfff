"""Logit distillation with labels (Hinton et al., arXiv 1503.02531, section 2): softened class
scores of a teacher beside the labels of the pictures."""

from collections.abc import Mapping
from typing import Any, Self

from jaxtyping import Float
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.config.baselines import LogitKDConfig
from vistill.errors import UserError
from vistill.methods.base import weighted
from vistill.methods.class_scores import classifiers, score_tap, score_terms
from vistill.methods.ingredients import Ingredients
from vistill.methods.layers import read
from vistill.methods.recoloured_view import RecolouredView
from vistill.methods.side import rising
from vistill.models.backbone import Backbone


class LogitKD(RecolouredView):
    """See `LogitKDConfig` for the switches.

    Args:
        student: the model to be trained; its pooled feature is classified.
        teacher: a frozen model with its classifier.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.
        num_classes: how many the labels tell apart; None: they are not learned.

    Raises:
        UserError: the teacher has no classifier.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: LogitKDConfig | None = None,
        *,
        drop_path: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config or LogitKDConfig()
        scores = teacher.shape(score_tap(self.theirs, "logit_kd")).width
        both = classifiers(student.feature_width, scores, num_classes)
        self.classifier, self.label_classifier = both
        self.ours.drop_path(rising(drop_path, max(1, student.depth)))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate, labels = given.student_drop_path or 0.0, None
        if given.config.labels_weight:
            try:
                labels = given.num_classes
            except UserError as error:
                alone = "method.labels_weight=0 learns from the teacher's scores alone"
                raise UserError(f"{error}; {alone}") from None
        return cls(given.student, given.teacher, given.config, drop_path=rate, num_classes=labels)

    def cache_key(self) -> dict[str, Any]:
        of_scores = {"signal": "logits", "activation": self.config.logits_activation}
        return {**of_scores, **super().cache_key()}

    def teacher_features(self, batch: Batch) -> Float[Tensor, "b c"]:
        """The teacher's class scores."""
        scores = read(self.theirs, batch, "after", scores=self.config.logits_activation).scores
        assert scores is not None
        return scores

    def target_of(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        return features

    def compare(self, batch: Batch, target: Float[Tensor, "b c"]) -> Losses:
        feature = read(self.ours, batch, self.config.logits_activation).pooled
        heads = self.classifier, self.label_classifier
        terms: Mapping[str, tuple[float, Tensor]] = score_terms(
            self.config, heads, feature, target, batch.labels
        )
        return weighted(terms)
