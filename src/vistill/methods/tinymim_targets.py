"""What TinyMIM matches (section 3.2; spec 4, 5): relations, whitened features, or the class token.

Each target is a small module: `taps`, of student and teacher; `kept`, the part of the teacher's
signal that is read; and `forward(ours, theirs)` with the student's signal and that part, which
gives losses by name. Its projectors are thrown away after training.
"""

from collections.abc import Callable, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from vistill.config.methods import TinyMIMConfig
from vistill.errors import UserError
from vistill.heads.projector import linear_projector
from vistill.losses.distances import mse, smooth_l1, softmax_kl
from vistill.losses.relation import relation_loss
from vistill.methods.side import Side
from vistill.methods.two_sides import heads_fit, same_tokens
from vistill.models.backbone import Tap, TapKind
from vistill.targets.whitening import whiten

_QKV = {"q": 0, "k": 1, "v": 2}
_FEATURES: dict[tuple[str, bool], TapKind] = {
    ("output", False): "block",
    ("block", False): "block",
    ("attention", False): "attention",
    ("attention", True): "attention_residual",
    ("ffn", False): "ffn",
    ("ffn", True): "block",
    ("qkv", False): "qkv",
}


class Target(nn.Module):
    """Base of the three: taps of student and teacher."""

    taps: tuple[Tap, Tap]
    reads: tuple[str, ...] = ()
    """Names of what `kept` keeps, where that is a part."""

    def kept(self, theirs: Tensor) -> Tensor:
        """What is read of the teacher's signal."""
        return theirs

    def their_tap(self) -> Tap:
        """The teacher's tap at this point of the run; in evaluations always that of its end."""
        return self.taps[1]

    def reached(self, progress: float) -> None:
        """Told before every step: the share of all steps that are done."""


class Relation(Target):
    """KL between softmaxed q·kᵀ, v·vᵀ, … of both sides, head by head (equations 6 to 9)."""

    def __init__(self, ours: Side, theirs: Side, config: TinyMIMConfig, block: int) -> None:
        super().__init__()
        options = config.relation
        self.taps = ours.tap("qkv"), theirs.tap("qkv", block)
        self.pairs, self.softmax = options.pairs, options.softmax
        self.reads = tuple(name for name in _QKV if any(name in pair for pair in self.pairs))
        self.num_heads = options.heads or theirs.model.num_heads[block - 1]
        heads_fit(self.num_heads, student=ours.model.width, teacher=theirs.model.width)
        same_tokens(ours, self.taps[0], theirs, self.taps[1])
        self.early = tuple(theirs.tap("qkv", early) for early in options.early_blocks)
        self.stage = len(self.early)
        for tap in self.early:
            same_tokens(ours, self.taps[0], theirs, tap)
        if self.early and self.early[-1].block >= block:
            raise UserError(
                f"method.relation.early_blocks has block {self.early[-1].block}, which is not "
                f"shallower than block {block}, with which the run ends (teacher.block)"
            )

    def their_tap(self) -> Tap:
        return (*self.early, self.taps[1])[self.stage if self.training else -1]

    def reached(self, progress: float) -> None:
        self.stage = int(progress * (len(self.early) + 1))

    def kept(self, theirs: Float[Tensor, "b n 3 e"]) -> Float[Tensor, "b n r e"]:
        if len(self.reads) == len(_QKV):
            return theirs
        return theirs[:, :, [_QKV[name] for name in self.reads]]

    def forward(
        self, ours: Float[Tensor, "b n 3 d"], theirs: Float[Tensor, "b n r e"]
    ) -> dict[str, Tensor]:
        def factors(signal: Tensor, names: Sequence[str], pair: str) -> tuple[Tensor, Tensor]:
            a, b = (signal[:, :, names.index(name)] for name in pair)
            return a, b

        return {
            pair: relation_loss(
                factors(ours, tuple(_QKV), pair),
                factors(theirs, self.reads, pair),
                self.num_heads,
                softmax=self.softmax,
            )
            for pair in self.pairs
        }


class Feature(Target):
    """Smooth L1 between projected and whitened features of the same kind (table 1; spec 5)."""

    def __init__(self, ours: Side, theirs: Side, config: TinyMIMConfig, block: int) -> None:
        super().__init__()
        options = config.feature
        kind = _FEATURES[options.kind, options.residual]
        their_block = theirs.model.depth if options.kind == "output" else block
        self.taps = ours.tap(kind), theirs.tap(kind, their_block)
        self.parts = tuple(_QKV) if kind == "qkv" else ("feature",)
        widths = ours.model.width, theirs.model.width
        self.projectors = nn.ModuleList(linear_projector(*widths) for _ in self.parts)
        same_tokens(ours, self.taps[0], theirs, self.taps[1])

    def forward(self, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
        def signals(tokens: Tensor) -> tuple[Tensor, ...]:
            return tokens.unbind(2) if len(self.parts) > 1 else (tokens,)

        found = zip(self.parts, self.projectors, signals(ours), signals(theirs), strict=True)
        return {name: smooth_l1(project(a), whiten(b)) for name, project, a, b in found}


class ClassToken(Target):
    """The projected class token against the teacher's, both behind the final norm."""

    def __init__(self, ours: Side, theirs: Side, config: TinyMIMConfig, block: int) -> None:
        super().__init__()
        for side in (ours, theirs):
            if not side.model.has_class_token:
                raise UserError(
                    f"method.target=class_token, but the {side.name} has no class token"
                )
        self.taps = ours.tap("norm"), theirs.tap("norm")
        self.project = linear_projector(ours.model.width, theirs.model.width)
        self.distance = _DISTANCES[config.class_token.loss]
        self.reads = ("class_token",)

    def kept(self, theirs: Float[Tensor, "b n e"]) -> Float[Tensor, "b e"]:
        return theirs[:, 0]

    def forward(
        self, ours: Float[Tensor, "b n d"], theirs: Float[Tensor, "b e"]
    ) -> dict[str, Tensor]:
        return {"class_token": self.distance(self.project(ours[:, 0]), theirs)}


_DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": softmax_kl,
    "mse": mse,
    "smooth_l1": smooth_l1,
}
TARGETS = cast(
    "dict[str, Callable[[Side, Side, TinyMIMConfig, int], Target]]",
    {"relation": Relation, "feature": Feature, "class_token": ClassToken},
)
