"""Supervised pre-training (spec kdep 8, SP): cross-entropy with the pictures' labels, without a
teacher; what KDEP's tables compare with. The classifier is thrown away, as for any transfer."""

from dataclasses import replace
from typing import Self

from torch import nn

from vistill.batch import Batch, Losses
from vistill.config.methods import SupervisedConfig
from vistill.errors import UserError
from vistill.losses.baselines import label_cross_entropy
from vistill.methods.base import Method, weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.layers import read
from vistill.methods.recoloured_view import recoloured
from vistill.methods.side import rising
from vistill.models.backbone import Backbone


class Supervised(Method):
    """See `SupervisedConfig` for the switches.

    Args:
        student: the model to be trained; its pooled feature is classified.
        num_classes: how many classes the labels tell apart.
        config: the switches.
        drop_path: rate of the last block, rising linearly from 0 in the first.

    Raises:
        UserError: there is a single class.
    """

    def __init__(
        self,
        student: Backbone,
        num_classes: int,
        config: SupervisedConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student)
        self.config = config or SupervisedConfig()
        if num_classes < 2:
            raise UserError("supervised learns to tell classes apart, and the labels name only one")
        self.classifier = nn.Linear(student.width, num_classes)
        self.ours.drop_path(rising(drop_path, max(1, student.depth)))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        return cls(given.student, given.num_classes, given.config, drop_path=rate)

    def view(self, batch: Batch) -> Batch:
        """Pictures or clips as KDEP shows them in training: jittered colours, then noise along
        their principal directions."""
        return replace(batch, pixels=recoloured(self.config, batch)) if self.training else batch

    def forward(self, batch: Batch) -> Losses:
        assert batch.labels is not None
        scores = self.classifier(read(self.ours, self.view(batch), "after").pooled)
        loss = label_cross_entropy(scores, batch.labels, self.config.label_smoothing)
        known = batch.labels >= 0
        hits = (scores.argmax(dim=1) == batch.labels) & known
        accuracy = hits.sum() / known.sum().clamp(min=1)
        return weighted({"labels": (1.0, loss)}, {"accuracy": accuracy})
