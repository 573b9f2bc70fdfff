"""KDEP (He et al., arXiv 2203.05180; spec kdep): match the student's pooled penultimate feature to
the teacher's, brought to the student's width by a fixed map: SVD and power temperature scaling."""

from collections.abc import Mapping
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.methods import KDEPConfig
from vistill.heads.projector import conv1x1
from vistill.losses.feature import DISTANCES
from vistill.methods.base import TargetFit, weighted
from vistill.methods.class_scores import classifiers, score_terms
from vistill.methods.ingredients import Ingredients
from vistill.methods.kdep_parts import (
    check_terms,
    file_name,
    fit_maps,
    fixed_map,
    needs_a_pass,
)
from vistill.methods.layers import Activation, layer_widths, read
from vistill.methods.recoloured_view import RecolouredView
from vistill.methods.target_fit import FeatureMoments
from vistill.models.backbone import Backbone
from vistill.targets.fixed_map import FixedMap


class KDEP(RecolouredView):
    """See `KDEPConfig` for the switches. What is matched, by name: `feature`, the pooled one;
    `stage1`, `stage2`, … pairs of layers, each by a map of its own; `logits`, class scores.

    Args:
        student: the model to be trained; its raw feature enters the loss.
        teacher: any frozen model.
        config: the switches.
        drop_path: constant rate of the student's blocks.
        num_classes: how many the labels tell apart, where they are learned.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: KDEPConfig | None = None,
        *,
        drop_path: float = 0.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or KDEPConfig()
        learned = config.align == "conv1x1"
        self.activation: Activation = config.activation or ("after" if learned else "before")
        check_terms(config, self.theirs)
        self.layers = [pair[0] for pair in config.stages], [pair[1] for pair in config.stages]
        ours = [student.feature_width, *layer_widths(self.ours, self.layers[0])]
        theirs = [teacher.feature_width, *layer_widths(self.theirs, self.layers[1])]
        names = ["feature", *(f"stage{i}" for i in range(1, len(ours)))]
        self.widths = dict(zip(names, theirs, strict=True))
        self.maps = nn.ModuleDict(
            {
                name: fixed_map(config, name, theirs[i], theirs[i] if learned else ours[i])
                for i, name in enumerate(names)
                if i or config.weight
            }
        )
        self.aligner = conv1x1(ours[0], theirs[0]) if learned else nn.Identity()
        self.scores = config.logits_activation if config.logits_weight else None
        if self.scores is not None:
            self.widths["logits"] = teacher.shape(self.theirs.tap("logits")).width
        counts = self.widths.get("logits"), num_classes
        self.classifier, self.label_classifier = classifiers(ours[0], *counts)
        self.ours.drop_path([drop_path] * max(1, student.depth))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        labels = given.num_classes if given.config.labels_weight else None
        return cls(given.student, given.teacher, given.config, drop_path=rate, num_classes=labels)

    def cache_key(self) -> dict[str, Any]:
        return {
            "signal": "pooled",
            "activation": self.activation,
            **super().cache_key(),
            "layers": self.layers[1],
            "logits": "before" if self.scores == "before" else self.scores is not None,
        }

    def teacher_features(self, batch: Batch) -> Float[Tensor, "b d"]:
        """The teacher's pooled feature; beside it its layers and class scores, if any."""
        found = read(self.theirs, batch, self.activation, self.layers[1], scores=self.scores)
        beside = [*found.layers, *([] if found.scores is None else [found.scores])]
        return torch.cat([found.pooled, *beside], dim=1) if beside else found.pooled

    def target_of(self, features: Float[Tensor, "b d"]) -> dict[str, Float[Tensor, "b e"]]:
        """Every part at the student's width; class scores as they are."""
        parts = zip(self.widths, features.split([*self.widths.values()], dim=1), strict=True)
        return {
            name: self.maps[name](part) if name in self.maps else part
            for name, part in parts
            if name in self.maps or name == "logits"
        }

    def compare(self, batch: Batch, target: Mapping[str, Tensor]) -> Losses:
        config = self.config
        heads = self.classifier, self.label_classifier
        scored = config.logits_activation if any(heads) else None
        found = read(self.ours, batch, self.activation, self.layers[0], classified=scored)
        distance = DISTANCES[config.loss]
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.weight:
            loss = distance(self.aligner(found.pooled), target["feature"])
            terms["feature"] = config.weight, loss
        for i, layer in enumerate(found.layers, start=1):
            terms[f"stage{i}"] = config.stage_weight, distance(layer, target[f"stage{i}"])
        terms |= score_terms(config, heads, found.classified, target.get("logits"), batch.labels)
        return weighted(terms)

    def target_fit(self, pictures: int) -> TargetFit | None:
        if not needs_a_pass(self._fixed_maps.values(), pictures):
            return None
        widths = {file_name(name): size for name, size in self.widths.items() if name != "logits"}
        fit_view, centred = self.config.fit_view, self.config.centred

        def features(batch: Batch) -> Tensor:
            return cast(Tensor, self.features(self.view(batch, augment=fit_view == "train")))

        return FeatureMoments(features, widths, fit_view, centred=centred)

    def use_fit(self, fitted: Mapping[str, Tensor]) -> str:
        return fit_maps(self._fixed_maps, fitted)

    @property
    def _fixed_maps(self) -> dict[str, FixedMap]:
        return cast("dict[str, FixedMap]", dict(self.maps))
