"""Feature distillation (Wei et al., arXiv 2205.14141; spec fd 1-6): a student regresses the
whitened output features of any frozen teacher, for the same view of the picture, unmasked."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from vistill.batch import Batch, Losses
from vistill.config.methods import FeatureDistillationConfig
from vistill.errors import UserError
from vistill.heads.projector import feature_projector
from vistill.losses.distances import feature_distance, softmax_kl
from vistill.methods.base import Method, weighted
from vistill.methods.class_scores import score_tap
from vistill.methods.ingredients import Ingredients
from vistill.methods.output_maps import as_tokens, fitting_grids, output_tap, resize_map, select
from vistill.methods.several_maps import SeveralMaps, matches_several
from vistill.methods.shared_view import SharedView
from vistill.methods.side import rising
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone
from vistill.targets.whitening import WHITENINGS


def _distance(config: FeatureDistillationConfig) -> Callable[[Tensor, Tensor], Tensor]:
    if config.target == "logits":
        return partial(softmax_kl, temperature=config.temperature)
    return feature_distance(config.loss, config.beta)


class FeatureDistillation(SharedView):
    """See `FeatureDistillationConfig` for the switches.

    Args:
        student: the model to be trained.
        teacher: any frozen model with a final map of tokens or a feature map.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first (section
            3.4: for the student alone).
        teacher_drop_path: the same for the teacher, which has none by default.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: FeatureDistillationConfig | None = None,
        *,
        drop_path: float = 0.0,
        teacher_drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or FeatureDistillationConfig()
        self.tap = output_tap(self.ours, after_norm=True)
        if config.target == "logits":
            self.teacher_tap = score_tap(self.theirs, "method.target=logits")
            self.whiten = WHITENINGS["none"]
        else:
            self.teacher_tap = output_tap(self.theirs, config.after_norm)
            self.whiten = WHITENINGS[config.whitening]
        self.distance = _distance(config)
        ours, theirs = student.shape(self.tap), teacher.shape(self.teacher_tap)
        self.grids = fitting_grids(config, student, teacher, ours, theirs)
        if config.projector == "identity" and student.width != theirs.width:
            raise UserError(
                f"method.projector=identity needs equal widths, but the student has "
                f"{student.width} and the teacher {theirs.width}; use linear"
            )
        self.projector = feature_projector(config.projector, student.width, theirs.width)
        self.ours.drop_path(rising(drop_path, student.depth))
        if teacher_drop_path > 0:
            self.theirs.drop_path(rising(teacher_drop_path, teacher.depth))
            teacher.train()

    @classmethod
    def build(cls, given: Ingredients) -> Method:
        """From a configuration; of a student with several named maps, all of them are matched."""
        if matches_several(given.config, given.student):
            return SeveralMaps(cast(PooledBackbone, given.student), given.teacher, given.config)
        return cls(
            given.student,
            given.teacher,
            given.config,
            drop_path=given.student_drop_path or 0.0,
            teacher_drop_path=given.teacher_drop_path,
        )

    @property
    def _whole(self) -> bool:
        return self.config.target in ("map", "patches")

    def cache_key(self) -> dict[str, Any]:
        return {
            "signal": self.teacher_tap.kind,
            "part": "map" if self._whole else self.config.target,
            "antialias": self.config.antialias,
        }

    def teacher_features(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """The teacher's whole map, or the one vector of it that is compared."""
        images = self.theirs.images(batch, antialias=self.config.antialias)
        signal = self.theirs.see(batch, [self.teacher_tap], images=images)[self.teacher_tap]
        if self.config.target == "logits":
            return signal
        tokens, prefix = as_tokens(signal), self.theirs.model.num_prefix_tokens
        return tokens if self._whole else select(tokens, self.config.target, prefix, prefix)

    def target_of(self, features: Float[Tensor, "b *n d"]) -> Float[Tensor, "b *n d"]:
        """Brought to the student's grid and tokens, and whitened (section 3.1)."""
        if self._whole:
            prefix = self.theirs.model.num_prefix_tokens
            if self.grids is not None:
                features = resize_map(features, prefix, *self.grids)
            kept = self.student.num_prefix_tokens
            features = select(features, self.config.target, prefix, kept)
        return self.whiten(features)

    def predict(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """What the student says about the target."""
        tokens = as_tokens(self.ours.see(batch, [self.tap])[self.tap])
        prefix = self.student.num_prefix_tokens
        return self.projector(select(tokens, self.config.target, prefix, prefix))

    def compare(self, batch: Batch, target: Float[Tensor, "b *n d"]) -> Losses:
        name = "logits" if self.config.target == "logits" else "feature"
        return weighted({name: (1.0, self.distance(self.predict(batch), target))})
