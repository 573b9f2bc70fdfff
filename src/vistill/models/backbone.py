"""What vistill asks of any model, teacher or student: its taps, sizes, grid and normalisation."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.errors import UserError
from vistill.filled import filled
from vistill.models.grids import token_grid
from vistill.models.taps import Draws, Images, Run, Shape, Taps, Visible
from vistill.models.taps import Tap as Tap
from vistill.models.taps import TapKind as TapKind

POOLED: frozenset[TapKind] = frozenset(("pooled", "pooled_act"))
BY_ITSELF = "its own pooled feature, by the layers that it has behind its last tokens or map"
OVER_OWN = "a mean, since the layers behind it that make its own feature learn nothing here"


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation that a model expects of pixels in [0, 1]."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, pixels: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b 3 *size"]:
        """Normalise pixels in [0, 1]."""
        each = (3,) + (1,) * (pixels.dim() - 2)
        mean, std = (filled(values, pixels).view(each) for values in (self.mean, self.std))
        return (pixels - mean) / std


class Backbone(nn.Module, ABC):
    """A model behind vistill's interface; our own ViT is one, adapters make others into one.

    Attributes:
        width: channels D of a token.
        depth: number of blocks; 0 for a CNN.
        num_heads: attention heads per block, 0 where the model has none.
        num_prefix_tokens: class and register tokens in front of the patch tokens.
        image_size: height and width the model was built for.
        num_frames: frames of a clip; 1 for a model of pictures.
        normalization: what its inputs are normalised with.
        taps: the kinds of `Tap` that it offers.
        pools_after_norm: whether its classifiers average tokens behind the final norm (Swin).
        pools_itself: whether the pooled feature is what layers of its own behind the last tokens or
            map make of them, as in its library; see `pool_itself`.
        projection: `[D, C]`, from the final norm to the space of pictures and text; CLIP's alone.
        feature_width: channels of that feature; D where it is a mean.
        origin: where the weights came from, one line for logs and run folders.
        untrained: whether they are random ones that nobody trained.
        reads: which of several signals the feature is read from, where that is no matter of course.
        precision: what it computes in whoever calls it (`vistill.models.precision`); None: what its
            caller does.
        computes_in: the type of its products then; None: fp32.
        full_type: of its pixels, where some of its weights are kept in a cheaper one.
        build: name and arguments that rebuild the architecture (`vistill.models.build`), or None.
        adapter: of a module of the user's own, the arguments that wrap it again; else None.
        answers_only: whether it cannot be trained, copied into another or looked into.
        class_names: of the outputs of its own classifier, where it tells them.
        interpolation: how pictures are resized for that.
        made_by: the function of the user's, `FILE.py:NAME`, that made it; or None.
    """

    width: int
    depth: int
    num_heads: tuple[int, ...]
    num_prefix_tokens: int
    image_size: tuple[int, int]
    num_frames: int = 1
    normalization: Normalization
    taps: frozenset[TapKind]
    pools_after_norm: bool = False
    pools_itself: bool = False
    _own: tuple[Run, int] | None = None
    reads: str = ""
    origin: str
    untrained: bool = False
    precision: Literal["fp32", "bf16", "fp16", "int8"] | None = None
    computes_in: torch.dtype | None = None
    full_type: torch.dtype | None = None
    build: dict[str, Any] | None
    adapter: dict[str, Any] | None = None
    made_by: str | None = None
    answers_only: bool = False
    class_names: list[str] | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def input_type(self) -> torch.dtype:
        """Of the pixels that it is to be given."""
        return self.full_type or next(self.parameters()).dtype

    @property
    def has_class_token(self) -> bool:
        """Whether the first of its tokens is a class token; registers alone are none."""
        return self.num_prefix_tokens > 0

    @property
    def feature_width(self) -> int:
        """Channels of the pooled feature."""
        return self._own[1] if self.pools_itself and self._own is not None else self.width

    def offer_own(self, run: Run, width: int) -> None:
        """Know that the library pools by layers of its own, to `width` channels, in `run`."""
        self._own = run, width
        if not self.pools_itself:
            self.reads = OVER_OWN

    def pool_itself(self) -> None:
        """Read the pooled feature as the library does, if that has layers of its own for it.

        For weights that were trained together with these layers; a student's learn nothing.
        """
        if self._own is not None:
            self.pools_itself, self.reads = True, BY_ITSELF
            self.taps |= POOLED

    def own_feature(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b d"]:
        """The pooled feature of such a library, by a whole pass."""
        assert self._own is not None
        pooled = self._own[0](images).pooled
        assert pooled is not None
        return pooled.flatten(1)

    @abstractmethod
    def tap(
        self, images: Images, taps: Taps, *, visible: Visible = None, drop_path_noise: Draws = None
    ) -> dict[Tap, Tensor]:
        """Run normalised `images` no further than the deepest of `taps` and return them.

        Args:
            images: normalised pixels.
            taps: which signals to return.
            visible: patch token indices each sample keeps, in the order given; None keeps all.
            drop_path_noise: uniform draws in [0, 1), `num_drop_path_draws` rows, one per residual
                branch with a non-zero drop rate, in call order (of an adapter: in the order of its
                modules); None draws from the global generator.
        """

    @property
    def num_drop_path_draws(self) -> int:
        """Rows of `drop_path_noise`; 0: it drops no branch."""
        return 0

    def parameter_layers(self) -> dict[str, int]:
        """Layer of every parameter, for layer-wise learning rates: 0 in front of the blocks, k in
        block k (from 1), `depth + 1` in the norm behind them."""
        blocks: Any = getattr(self, "blocks", ())
        owner = {
            id(parameter): number
            for number, block in enumerate(blocks, start=1)
            for parameter in block.parameters()
        }
        return {
            name: owner.get(
                id(parameter),
                self.depth + 1 if name.removeprefix("module.").startswith("norm.") else 0,
            )
            for name, parameter in self.named_parameters()
        }

    @torch.no_grad()
    def shape(self, tap: Tap) -> Shape:
        """What `tap` gives, found with a blank picture, as that is true of every adapter."""
        was_training = self.training
        clip = (self.num_frames,) if self.num_frames > 1 else ()
        like = next(self.parameters())
        blank = like.new_zeros(1, 3, *clip, *self.image_size, dtype=self.input_type)
        found = self.eval().tap(blank, [tap])[tap]
        self.train(was_training)
        if found.dim() == 2:
            return Shape(0, 1, (1, 1), found.shape[1])
        if found.dim() == 4 and tap.kind != "qkv":
            rows, columns = found.shape[2:]
            return Shape(0, rows * columns, (rows, columns), found.shape[1])
        patches = found.shape[1] - self.num_prefix_tokens
        grid = token_grid(patches, self.image_size) if self.num_frames == 1 else None
        return Shape(self.num_prefix_tokens, patches, grid or (1, patches), found.shape[-1])

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Tokens of any block behind the final norm; as they are where there is none."""
        norm: Any = getattr(self, "norm", None)
        return tokens if norm is None else norm(tokens)

    @property
    def projection(self) -> Float[Tensor, "d c"] | None:
        """What `keep_projection` was given."""
        return getattr(self, "_projection", None)

    def keep_projection(self, weight: Float[Tensor, "d c"]) -> None:
        """Know the map into the space of pictures and text that CLIP has behind its final norm.

        It is no part of the weights: no student learns it, and no file of ours holds it.
        """
        self.register_buffer("_projection", weight.detach().float(), persistent=False)

    def project(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b c"]:
        """Tokens behind the final norm through that map; as they are where there is none."""
        return tokens if self.projection is None else tokens @ self.projection.to(tokens.dtype)

    def forward(self, images: Float[Tensor, "b 3 *size"]) -> Float[Tensor, "b n d"]:
        """All tokens after the final norm."""
        tap = Tap("norm", self.depth)
        return self.tap(images, [tap])[tap]

    def tokens_and_pooled(
        self, images: Float[Tensor, "b 3 *size"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b d"]]:
        """What `forward` gives, and the mean of its patch tokens, in one pass."""
        tokens = self(images)
        return tokens, tokens[:, self.num_prefix_tokens :].mean(dim=1)

    def pooled(
        self, images: Float[Tensor, "b 3 *size"], pool: Literal["avg", "cls"] = "avg"
    ) -> Float[Tensor, "b d"]:
        """One feature per image from the last block: mean of patch tokens, or the class token."""
        tokens, mean = self.tokens_and_pooled(images)
        return tokens[:, 0] if pool == "cls" else mean


def scores(output: Any) -> Tensor:
    """Class scores, which libraries return as they are or as `logits` of an object."""
    return getattr(output, "logits", output)


def require_backbone(model: Any) -> Backbone:
    """`model`, which was given as an object.

    Raises:
        UserError: it is no backbone; told is how it becomes one.
    """
    if not isinstance(model, Backbone):
        raise UserError(
            f"a {type(model).__name__} has to be wrapped first, so that vistill knows its parts: "
            "see vistill.models.adapters.any_transformer.ModuleBackbone or "
            "vistill.models.adapters.any_cnn.PooledBackbone"
        )
    return model
