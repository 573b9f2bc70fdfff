"""Feature distillation of several maps at once, as of a detector's backbone: each of the student's
maps regresses whitened features of the teacher, resized to its grid, by a projector of its own."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.methods import FeatureDistillationConfig
from vistill.errors import UserError
from vistill.heads.projector import feature_projector
from vistill.losses.distances import feature_distance
from vistill.methods.base import weighted
from vistill.methods.output_maps import as_tokens, output_tap, resize_map, select
from vistill.methods.shared_view import SharedView
from vistill.methods.side import Side
from vistill.models.adapters.any_cnn import PooledBackbone, named_maps
from vistill.models.backbone import Backbone, Tap
from vistill.targets.whitening import WHITENINGS


def matches_several(config: FeatureDistillationConfig, student: Backbone) -> bool:
    """Whether maps are matched by their names, and not the last one alone.

    Raises:
        UserError: what is said of maps has none to go with.
    """
    count = len(named_maps(student))
    for name in ("teacher_maps", "map_weights"):
        given = len(getattr(config, name))
        if given and given != count:
            maps = f"student.maps names {count or 'none'}"
            raise UserError(f"method.{name} holds {given}, one for each map, but {maps}")
    return count > 1 or bool(count and (config.teacher_maps or config.map_weights))


class SeveralMaps(SharedView):
    """`FeatureDistillation` for a student whose maps are named.

    What is matched is called `map1`, `map2`, … in the order of `student.maps`.

    Args:
        student: with named maps.
        teacher: any frozen model with maps or patch tokens.
        config: the switches.

    Raises:
        UserError: teacher, student and switches do not fit together.
    """

    student: PooledBackbone

    def __init__(
        self, student: PooledBackbone, teacher: Backbone, config: FeatureDistillationConfig
    ) -> None:
        super().__init__(student, teacher)
        if config.target not in ("map", "patches"):
            raise UserError(
                f"method.target={config.target} compares one vector of the last map; leave it out "
                "where student.maps are matched"
            )
        self.config = config
        count = len(student.maps)
        self.taps = [Tap("map_act", number) for number in range(1, count + 1)]
        if config.teacher_maps:
            self.teacher_taps = teacher_taps(self.theirs, config.teacher_maps)
        else:
            self.teacher_taps = [output_tap(self.theirs, config.after_norm)] * count
        ours = [student.shape(tap) for tap in self.taps]
        theirs = {tap: teacher.shape(tap) for tap in dict.fromkeys(self.teacher_taps)}
        self.grids = [
            (theirs[tap].grid, shape.grid)
            for tap, shape in zip(self.teacher_taps, ours, strict=True)
        ]
        widths = [(o.width, theirs[t].width) for o, t in zip(ours, self.teacher_taps, strict=True)]
        for name, (own, wanted) in zip(student.maps, widths, strict=True):
            if config.projector == "identity" and own != wanted:
                raise UserError(
                    f"method.projector=identity needs equal widths, but the student's {name} has "
                    f"{own} channels and the teacher {wanted}; use linear"
                )
        self.projectors = nn.ModuleList(feature_projector(config.projector, *w) for w in widths)
        self.weights = config.map_weights or (1.0,) * count
        self.whiten = WHITENINGS[config.whitening]
        self.distance = feature_distance(config.loss, config.beta)

    def cache_key(self) -> dict[str, Any]:
        maps = self.config.teacher_maps or self.teacher_taps[0].kind
        return {"maps": maps, "antialias": self.config.antialias}

    def teacher_features(self, batch: Batch) -> dict[str, Float[Tensor, "b n d"]]:
        """Every map of the teacher that is matched, once."""
        taps = list(dict.fromkeys(self.teacher_taps))
        images = self.theirs.images(batch, antialias=self.config.antialias)
        found = self.theirs.see(batch, taps, images=images)
        return {_name(tap): as_tokens(found[tap]) for tap in taps}

    def target_of(
        self, features: Mapping[str, Float[Tensor, "b n d"]]
    ) -> list[Float[Tensor, "b m d"]]:
        """One for each map of the student, on its grid, whitened."""
        prefix = self.theirs.model.num_prefix_tokens
        targets = []
        for tap, (old, new) in zip(self.teacher_taps, self.grids, strict=True):
            tokens = features[_name(tap)]
            tokens = tokens if old == new else resize_map(tokens, prefix, old, new)
            targets.append(self.whiten(select(tokens, "patches", prefix, 0)))
        return targets

    def compare(self, batch: Batch, target: list[Tensor]) -> Losses:
        found = self.ours.see(batch, self.taps)
        terms = {
            f"map{number}": (weight, self.distance(projector(as_tokens(found[tap])), goal))
            for number, (weight, projector, tap, goal) in enumerate(
                zip(self.weights, self.projectors, self.taps, target, strict=True), start=1
            )
        }
        return weighted(terms)


def teacher_taps(side: Side, names: tuple[str, ...]) -> list[Tap]:
    """Where the teacher is read: behind blocks of a transformer, or at named maps of a CNN.

    Raises:
        UserError: it has no such block, or no such map.
    """
    model = side.model
    if model.depth:
        numbers = [str(number) for number in range(1, model.depth + 1)]
        wrong = next((name for name in names if name not in numbers), None)
        if wrong is not None:
            raise UserError(
                f"method.teacher_maps: the teacher has blocks 1 to {model.depth}, none is {wrong!r}"
            )
        return [side.tap("block", int(name)) for name in names]
    if not isinstance(model, PooledBackbone):
        raise UserError("method.teacher_maps: the maps of this teacher have no names")
    unique = tuple(dict.fromkeys(names))
    model.name_maps(unique)
    return [Tap("map_act", unique.index(name) + 1) for name in names]


def _name(tap: Tap) -> str:
    return f"{tap.kind}{tap.block}"
