"""A backbone with a classification head, trained as a method (spec 7)."""

import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.config.evaluation import FineTuneConfig
from vistill.errors import UserError
from vistill.evaluation.erasing import random_erasing
from vistill.evaluation.mixing import apply_mix, draw_mix, smoothed_targets
from vistill.methods.base import Method, TrainedModule, freeze_unreached
from vistill.methods.sides import drop_path_noise
from vistill.models.backbone import Backbone, Tap
from vistill.models.swin import SwinBackbone
from vistill.models.vit import VisionTransformer
from vistill.views.noise import Stream

_EPS = 1e-6
_DROP_PATH = 0.1


def soft_cross_entropy(
    logits: Float[Tensor, "b c"], targets: Float[Tensor, "b c"]
) -> Float[Tensor, ""]:
    """−Σ_classes target · log softmax(logits), mean over the batch."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


class Classifier(TrainedModule):
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
        super().__init__()
        self.student = backbone
        self.num_classes, self.pool = num_classes, pool
        self.options = options or FineTuneConfig()
        normed = pool == "avg" and "pooled_act" not in backbone.taps
        normed = normed and not backbone.pools_after_norm
        self.fc_norm = nn.LayerNorm(backbone.width, eps=_EPS) if normed else nn.Identity()
        self.head = nn.Linear(backbone.width, num_classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(self.head.weight, std=2e-5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def features(
        self,
        images: Float[Tensor, "b 3 h w"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """What the head sees of normalised `images`."""
        if "pooled_act" in self.student.taps:
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
        images: Float[Tensor, "b 3 h w"],
        drop_path_noise: Float[Tensor, "branches b"] | None = None,
    ) -> Float[Tensor, "b c"]:
        """Class scores of normalised `images`."""
        return self.head(self.features(images, drop_path_noise))

    def forward(self, batch: Batch, targets: None = None) -> Losses:
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
                (images.shape[2], images.shape[3]),
                mixup=options.mixup,
                cutmix=options.cutmix,
                probability=options.mix_probability,
                switch_probability=options.switch_probability,
            )
            images, wanted = apply_mix(images, wanted, mix)
        noise = drop_path_noise(self.student, batch.seeds, Stream.DROP_PATH)
        loss = soft_cross_entropy(self.logits(images, noise).to(wanted.dtype), wanted)
        return Losses(loss, {"cross_entropy": loss.detach()})


def build_classifier(
    backbone: Backbone,
    num_classes: int,
    *,
    image_size: int,
    pool: Literal["avg", "cls"],
    options: FineTuneConfig,
    seed: int,
) -> Method:
    """A method that fine-tunes a copy of `backbone`; the original is left as it is.

    Every parameter of the copy is trained, a fixed position table included, except those that the
    loss does not reach (the final norm under average pooling). A relative position bias that all
    blocks share becomes one per block. Heads, input size, stochastic depth and the last block's
    projections are set as `options` say.

    Raises:
        UserError: the backbone cannot do what is asked of it.
    """
    backbone = prepare_backbone(backbone, image_size, pool)
    if isinstance(backbone, VisionTransformer | SwinBackbone):
        backbone.unshare_relative_position()
    backbone.requires_grad_(True)
    if options.num_heads is not None:
        unify_heads = _ability(backbone, "unify_heads", "finetune.num_heads")
        if backbone.width % options.num_heads:
            raise UserError(
                f"finetune.num_heads={options.num_heads} does not divide the backbone's width "
                f"of {backbone.width}"
            )
        try:
            unify_heads(options.num_heads)
        except ValueError as error:
            raise UserError(f"finetune.num_heads={options.num_heads}: {error}") from None
    if options.drop_path or hasattr(backbone, "set_drop_path"):
        rate = _DROP_PATH if options.drop_path is None else options.drop_path
        last = max(1, backbone.depth - 1)
        set_drop_path = _ability(backbone, "set_drop_path", "finetune.drop_path")
        set_drop_path([rate * i / last for i in range(backbone.depth)])
    if options.reset_last_block == "zero_residual":
        _zero_residual(_ability(backbone, "blocks", "finetune.reset_last_block")[-1])
    method = Method(Classifier(backbone, num_classes, pool=pool, options=options, seed=seed))
    freeze_unreached(method, _two_grey_pictures(image_size))
    return method


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


def prepare_backbone(backbone: Backbone, image_size: int, pool: Literal["avg", "cls"]) -> Backbone:
    """A copy of `backbone` on the CPU that takes pictures of `image_size`.

    Raises:
        UserError: it has no class token to pool, or cannot be resized.
    """
    if pool == "cls" and backbone.num_prefix_tokens == 0:
        raise UserError("pool=cls needs a class token, which this backbone lacks; use pool=avg")
    backbone = copy.deepcopy(backbone).cpu()
    if tuple(backbone.image_size) != (image_size, image_size):
        resize = _ability(backbone, "resize", "image_size")
        try:
            resize(image_size)
        except ValueError as error:
            problem = f"image_size={image_size} does not suit the backbone: {error}"
            raise UserError(problem) from None
    return backbone


def _ability(backbone: Backbone, attribute: str, setting: str) -> Any:
    """What only some backbones have, and `setting` needs."""
    if not hasattr(backbone, attribute):
        raise UserError(
            f"{setting} cannot be set for this backbone ({backbone.origin}), "
            f"which has no {attribute}"
        )
    return getattr(backbone, attribute)


def _two_grey_pictures(image_size: int) -> Batch:
    pixels = torch.full((2, 3, image_size, image_size), 0.5)
    positions = torch.arange(2)
    return Batch(pixels=pixels, seeds=positions, ids=positions, labels=torch.zeros_like(positions))
