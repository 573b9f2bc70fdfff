"""A backbone with a classification head, trained as a method (spec 7)."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vistill.augment.erasing import random_erasing
from vistill.augment.mixing import apply_mix, draw_mix, smoothed_targets
from vistill.batch import Batch, Losses
from vistill.config.finetune import FineTuneConfig, Positions, Statistics
from vistill.errors import UserError
from vistill.image_size import ImageSize, height_width, shown_size
from vistill.methods.base import Method
from vistill.methods.side import drop_path_noise, rising
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Backbone, Normalization, Tap
from vistill.models.build import resized, size_instead
from vistill.models.files.clip import CLIP_NORMALIZATION
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer
from vistill.nearest import near_divisors
from vistill.random import Stream, per_sample_uniform

_EPS = 1e-6
_STATISTICS: dict[Statistics, Normalization] = {
    "none": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": Normalization(),
    "clip": CLIP_NORMALIZATION,
    "cifar100": Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
_DROP_PATH = 0.1


def soft_cross_entropy(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]
) -> Float[Tensor, ""]:
    """−Σ_classes target · log softmax(logits), mean over the batch."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def head_dropout(
    features: Float[Tensor, "b d"], seeds: Int[Tensor, " b"], rate: float
) -> Float[Tensor, "b d"]:
    """Dropout in front of the head; every draw of a sample derives from its seed."""
    kept = per_sample_uniform(seeds, features.shape[1], Stream.HEAD_DROPOUT) >= rate
    return features * kept.to(features.dtype) / (1 - rate)


class Classifier(Method):
    """Backbone, pooling, linear head; its forward is the training loss.

    With `avg` the patch tokens of the last block, before the backbone's final norm, are averaged
    and normalised by `fc_norm`; with `cls` the class token after the final norm is taken. Of a CNN
    the pooled feature after its last activation is classified, as in the ordinary network, and of a
    Swin the average behind its final norm.

    Args:
        backbone: becomes part of the classifier and is trained.
        num_classes: outputs of the head.
        pool: which feature is classified.
        options: augmentation and regularisation of the training loss.
        seed: of the head's initial weights.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pool: Literal["avg", "cls"] = "avg",
        options: FineTuneConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(backbone)
        self.num_classes, self.pool = num_classes, pool
        self.options = options or FineTuneConfig()
        normed = pool == "avg" and "pooled_act" not in backbone.taps
        normed = normed and not backbone.pools_after_norm
        width = backbone.feature_width if pool == "avg" else backbone.width
        self.fc_norm = nn.LayerNorm(width, eps=_EPS) if normed else nn.Identity()
        self.head = nn.Linear(width, num_classes)
        generator = torch.Generator().manual_seed(seed)
        if self.options.head_init == "uniform":
            bound = width**-0.5
            nn.init.uniform_(self.head.weight, -bound, bound, generator=generator)
            nn.init.uniform_(self.head.bias, -bound, bound, generator=generator)
        else:
            nn.init.trunc_normal_(self.head.weight, std=2e-5, generator=generator)
            nn.init.zeros_(self.head.bias)
        own = backbone.normalization
        known = _STATISTICS | {"own": own}
        backbone.normalization = known[self.options.normalization]
        self.test_normalization = known[
            self.options.test_normalization or self.options.normalization
        ]

    def features(
        self,
        images: Float[Tensor, "b 3 *size"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """What the head sees of normalised pictures or clips."""
        if self.pool == "avg" and "pooled_act" in self.student.taps:
            return self.student.pooled(images)
        after_norm = self.pool == "cls" or self.student.pools_after_norm
        kind: Literal["block", "norm"] = "norm" if after_norm else "block"
        tap = Tap(kind, self.student.depth)
        tokens = self.student.tap(images, [tap], drop_path_noise=drop_path_noise)[tap]
        if self.pool == "cls":
            return tokens[:, 0]
        return self.fc_norm(tokens[:, self.student.num_prefix_tokens :].mean(dim=1))

    def logits(
        self,
        images: Float[Tensor, "b 3 *size"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Class scores of normalised pictures or clips."""
        return self.head(self.features(images, drop_path_noise))

    def forward(self, batch: Batch) -> Losses:
        assert batch.labels is not None
        options = self.options
        images = self.student.normalization(batch.unit_pixels())
        if options.random_erasing > 0:
            images = random_erasing(images, batch.seeds, options.random_erasing)
        wanted = smoothed_targets(
            batch.labels, self.num_classes, options.label_smoothing, images.dtype
        )
        if options.mixup > 0 or options.cutmix > 0:
            mix = draw_mix(
                batch.seeds,
                (images.shape[-2], images.shape[-1]),
                mixup=options.mixup,
                cutmix=options.cutmix,
                probability=options.mix_probability,
                switch_probability=options.switch_probability,
            )
            images, wanted = apply_mix(images, wanted, mix)
        noise = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        features = self.features(images, noise)
        if options.head_dropout > 0:
            features = head_dropout(features, batch.seeds, options.head_dropout)
        loss = soft_cross_entropy(self.head(features).to(wanted.dtype), wanted)
        return Losses(loss, {"cross_entropy": loss.detach()})


def build_classifier(
    backbone: Backbone,
    num_classes: int,
    *,
    image_size: ImageSize,
    pool: Literal["avg", "cls"],
    options: FineTuneConfig,
    seed: int,
    num_frames: int | None = None,
) -> Classifier:
    """A classifier around a copy of `backbone`; the original is left as it is.

    Every parameter of the copy is trained, except those that the loss does not reach (the final
    norm under average pooling) and the fixed position table of clips; that of pictures is trained.
    A relative position bias that all blocks share becomes one per block. Heads, input size,
    stochastic depth and the last block's projections are set as `options` say.

    Raises:
        UserError: the backbone cannot do what is asked of it.
    """
    backbone = prepare_backbone(backbone, image_size, pool, num_frames, options.positions)
    if isinstance(backbone, VisionTransformer | SwinBackbone):
        backbone.unshare_relative_position()
    backbone.requires_grad_(True)
    if fixed_table(backbone):
        backbone.pos_embed.requires_grad_(False)
    if options.num_heads is not None:
        unify_heads = _ability(backbone, "unify_heads", "finetune.num_heads")
        if backbone.width % options.num_heads:
            near = near_divisors(backbone.width, options.num_heads)
            raise UserError(
                f"finetune.num_heads={options.num_heads} does not divide the backbone's width "
                f"of {backbone.width}; {near} would do"
            )
        try:
            unify_heads(options.num_heads)
        except ValueError as error:
            raise UserError(f"finetune.num_heads={options.num_heads}: {error}") from None
    if options.drop_path or hasattr(backbone, "set_drop_path"):
        rate = _DROP_PATH if options.drop_path is None else options.drop_path
        set_drop_path = _ability(backbone, "set_drop_path", "finetune.drop_path")
        set_drop_path(rising(rate, backbone.depth))
    if options.reset_last_block == "zero_residual":
        _zero_residual(_ability(backbone, "blocks", "finetune.reset_last_block")[-1])
    classifier = Classifier(backbone, num_classes, pool=pool, options=options, seed=seed)
    freeze_unreached(classifier, _two_grey_samples(backbone))
    return classifier


def _zero_residual(block: nn.Module) -> None:
    """Make a block the identity whose branches still learn."""
    for name in ("attn.proj", "mlp.fc2"):
        try:
            linear = block.get_submodule(name)
        except AttributeError:
            raise UserError(
                f"finetune.reset_last_block=zero_residual needs {name} in the last block, "
                "which this backbone lacks"
            ) from None
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)


def fixed_table(backbone: Backbone) -> bool:
    """Whether the positions of a clip are a table that nothing trains (spec amd 3)."""
    return (
        isinstance(backbone, VisionTransformer)
        and backbone.tubelet_size is not None
        and backbone.position == "sincos"
    )


def frames_of(backbone: Backbone) -> int:
    """Frames of the clips that a backbone takes; 1 for pictures."""
    return int(getattr(backbone, "num_frames", 1))


def prepare_backbone(
    backbone: Backbone,
    image_size: ImageSize,
    pool: Literal["avg", "cls"],
    num_frames: int | None = None,
    positions: Positions = "anew",
    setting: str = "image_size",
) -> Backbone:
    """A copy of `backbone` on the CPU for pictures of `image_size`, or clips of `num_frames`, whose
    fixed table comes to its new size as `positions` say; `setting` is where the size was said.

    Raises:
        UserError: it has no class token to pool, or cannot be resized.
    """
    if pool == "cls" and not backbone.has_class_token:
        raise UserError("pool=cls needs a class token, which this backbone lacks; use pool=avg")
    backbone = copy.deepcopy(backbone).cpu()
    if positions == "interpolated" and fixed_table(backbone):
        assert isinstance(backbone, VisionTransformer)
        backbone.table_grid = backbone.table_grid or (backbone.slots, *backbone.grid)
    size, own = height_width(image_size), tuple(backbone.image_size)
    if num_frames is not None and frames_of(backbone) != num_frames:
        wanted = f"frames={num_frames}, image_size={shown_size(size)}"
        resize = _clip_resize(backbone, num_frames)
    elif own != size:
        wanted = f"{setting}={shown_size(size)}"
        resize = _ability(backbone, "resize", setting)
    else:
        return backbone
    try:
        resize(size)
    except (ValueError, UserError) as error:
        hint = size_instead(size, lambda other: resized(backbone, other or own), setting)
        raise UserError(
            f"{wanted} does not suit the backbone ({backbone.origin}): {error}{hint}"
        ) from None
    return backbone


def let_learn(backbone: Backbone, drop_path: float) -> None:
    """Let all of a backbone learn, with drop path that rises to `drop_path` where it has any."""
    backbone.requires_grad_(True)
    set_drop_path: Any = getattr(backbone, "set_drop_path", None)
    if set_drop_path is not None:
        set_drop_path(rising(drop_path, backbone.depth))


def _clip_resize(backbone: Backbone, num_frames: int) -> Callable[[tuple[int, int]], None]:
    """Resizes a backbone of clips to another number of frames as well."""
    if frames_of(backbone) == 1:
        raise UserError(
            f"frames={num_frames} needs a backbone of clips, and this one ({backbone.origin}) "
            "takes pictures"
        )
    return partial(_ability(backbone, "resize", "frames"), num_frames=num_frames)


def _ability(backbone: Backbone, attribute: str, setting: str) -> Any:
    """What only some backbones have, and `setting` needs."""
    if not hasattr(backbone, attribute):
        raise UserError(
            f"{setting} cannot be set for this backbone ({backbone.origin}), "
            f"which has no {attribute}"
        )
    return getattr(backbone, attribute)


def _two_grey_samples(backbone: Backbone) -> Batch:
    frames = frames_of(backbone)
    clip = () if frames == 1 else (frames,)
    pixels = torch.full((2, 3, *clip, *backbone.image_size), 0.5)
    positions = torch.arange(2)
    return Batch(pixels=pixels, seeds=positions, ids=positions, labels=torch.zeros_like(positions))
