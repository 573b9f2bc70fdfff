"""Distillation of relations: of a picture to the pictures of its batch and of a queue, and of its
patches to one another. The idea of LightlyTrain's third recipe, written from its description."""

from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vistill.batch import Batch, Losses
from vistill.config.baselines import RelationKDConfig
from vistill.errors import UserError
from vistill.heads.projector import feature_projector
from vistill.losses.relation import cosine_relation_loss, queue_kl
from vistill.methods.base import weighted
from vistill.methods.ingredients import Ingredients
from vistill.methods.output_maps import as_tokens, output_tap, resize_map
from vistill.methods.recoloured_view import RecolouredView
from vistill.methods.side import Side, rising
from vistill.models.backbone import Backbone


class RelationKD(RecolouredView):
    """See `RelationKDConfig` for the switches.

    Args:
        student: the model to be trained.
        teacher: any frozen model with a final map of tokens or a feature map.
        config: the switches.
        drop_path: rate of the student's last block, rising linearly from 0 in the first.

    Raises:
        UserError: the maps cannot be compared, or the widths differ where nothing projects.
    """

    queue: Float[Tensor, "k d"]
    filled: Tensor

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        config: RelationKDConfig | None = None,
        *,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(student, teacher)
        self.config = config = config or RelationKDConfig()
        self.taps = output_tap(self.ours, True), output_tap(self.theirs, True)
        ours, theirs = student.shape(self.taps[0]), teacher.shape(self.taps[1])
        self.grids = theirs.grid, ours.grid
        if config.local_weight:
            clips = student.num_frames > 1 or teacher.num_frames > 1
            if ours.patches < 2 or (clips and ours.patches != theirs.patches):
                raise UserError(
                    "method.local_weight compares the patches of a picture with one another, but "
                    f"the student has {ours.patches} of them and the teacher {theirs.patches}; "
                    "choose other sizes, or set method.local_weight=0"
                )
        if config.projector == "identity" and config.global_weight and ours.width != theirs.width:
            raise UserError(
                f"method.projector=identity needs equal widths, but the student has {ours.width} "
                f"and the teacher {theirs.width}; use linear"
            )
        if config.global_weight:
            self.projector = feature_projector(config.projector, ours.width, theirs.width)
            self.register_buffer("queue", torch.zeros(config.queue_size, theirs.width))
            self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self.ours.drop_path(rising(drop_path, max(1, student.depth)))

    @classmethod
    def build(cls, given: Ingredients) -> Self:
        """From a configuration."""
        rate = given.student_drop_path or 0.0
        return cls(given.student, given.teacher, given.config, drop_path=rate)

    def cache_key(self) -> dict[str, Any]:
        kind = self.taps[1].kind
        return {"signal": kind, "patches": bool(self.config.local_weight), **super().cache_key()}

    def _patches(self, side: Side, batch: Batch, which: int) -> Float[Tensor, "b n d"]:
        tap = self.taps[which]
        tokens = as_tokens(side.see(batch, [tap])[tap])
        return tokens if tap.kind == "map_act" else tokens[:, side.model.num_prefix_tokens :]

    def teacher_features(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        """The teacher's patches behind its final norm; their mean, where no more is compared."""
        patches = self._patches(self.theirs, batch, 1)
        return patches if self.config.local_weight else patches.mean(dim=1)

    def target_of(self, features: Float[Tensor, "b *n d"]) -> dict[str, Tensor]:
        """The pooled feature at length one, and the patches in the student's grid."""
        pooled = features.mean(dim=1) if features.dim() == 3 else features
        target = {"pooled": normalize(pooled.float(), dim=1)}
        if features.dim() == 3:
            theirs, ours = self.grids
            target["patches"] = (
                features if theirs == ours else resize_map(features, 0, theirs, ours)
            )
        return target

    def compare(self, batch: Batch, target: dict[str, Tensor]) -> Losses:
        config, patches = self.config, self._patches(self.ours, batch, 0)
        terms: dict[str, tuple[float, Tensor]] = {}
        if config.global_weight:
            said = normalize(self.projector(patches.mean(dim=1)).float(), dim=1)
            new = self.ranks.gather(target["pooled"])
            keys = torch.cat([new, self.queue])
            known = torch.arange(len(keys), device=keys.device) < self.filled + len(new)
            loss = queue_kl(said, target["pooled"], keys, known, config.global_temperature)
            terms["global"] = config.global_weight, loss
            if self.training:
                self.queue.copy_(keys[: len(self.queue)])
                self.filled.add_(len(new)).clamp_(max=len(self.queue))
        if config.local_weight:
            local = cosine_relation_loss(patches, target["patches"], config.local_temperature)
            terms["local"] = config.local_weight, local
        return weighted(terms)
