"""Published fine-tuning and testing of clips (spec amd 11.2, 11.3; spec umt 7)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Sampling = Literal["dense", "stretched", "segments", "slices", "intervals", "sparse"]


class ClipSettings(NamedTuple):
    """How clips are taken from a video, see `vistill.data.video.sampling`.

    Attributes:
        frames: per clip.
        stride: frames of the video per frame of the clip; segments have none.
        sampling: of a training clip; tests spread theirs in the same manner.
        clips, crops: views of every test video.
    """

    frames: int
    stride: int
    sampling: Sampling
    clips: int
    crops: int

    @property
    def middle(self) -> "ClipSettings":
        """A single view of every video, in its middle."""
        return self._replace(clips=1, crops=1)


_PUBLISHED: dict[str, ClipSettings] = {
    "k400": ClipSettings(0, 4, "stretched", 5, 3),
    "ssv2": ClipSettings(0, 2, "segments", 2, 3),
    "ucf101": ClipSettings(0, 4, "stretched", 5, 3),
    "hmdb51": ClipSettings(0, 4, "stretched", 5, 3),
}
"""By data set, whatever the frames."""
_UMT = ClipSettings(0, 1, "slices", 4, 3)


def _published(epochs: int, base_lr: float, global_batch_size: int, **other: Any) -> dict[str, Any]:
    scale = global_batch_size / 256
    return {
        "epochs": epochs,
        "min_steps": 0,
        "global_batch_size": global_batch_size,
        "repeats": 2,
        "base_lr": base_lr,
        "lr": None,
        "layer_decay": 0.75,
        "drop_path": 0.1,
        "mixup": 0.8,
        "cutmix": 1.0,
        "random_erasing": 0.25,
        "rand_augment": "rand-m7-n4-mstd0.5-inc1",
        "crop_scale": (0.08, 1.0),
        "interpolation": "bilinear",
        **other,
        "min_lr": scale * other.get("min_lr", 1e-6),
    }


def _umt(
    size: Literal["base", "large"],
    epochs: int,
    warmup_epochs: int,
    base_lr: float,
    clips: int = 256,
    repeats: int = 2,
    **other: Any,
) -> dict[str, Any]:
    """UMT's rates grow with the views of a step, of which every clip has `repeats`."""
    return _published(
        epochs,
        base_lr * repeats,
        clips,
        repeats=repeats,
        warmup_epochs=warmup_epochs,
        warmup_lr=1e-6 * clips * repeats / 256,
        min_lr=1e-6 * repeats,
        layer_decay={"base": 0.75, "large": 0.85}[size],
        drop_path={"base": 0.1, "large": 0.2}[size],
        positions="interpolated",
        **other,
    )


_STRONG = {"min_lr": 1e-5, "drop_path": 0.2, "head_dropout": 0.5}

CLIP_RECIPES: dict[str, dict[str, Any]] = {
    "amd_small_k400": _published(150, 1e-3, 512),
    "amd_base_k400": _published(90, 7e-4, 512),
    "amd_small_ssv2": _published(40, 1e-3, 256, flip=0.0),
    "amd_base_ssv2": _published(30, 5e-4, 256, flip=0.0),
    "videomae_small_k400": _published(150, 5e-4, 384, layer_decay=0.7),
    "videomae_small_ssv2": _published(40, 1e-3, 384, layer_decay=0.7, flip=0.0),
    "videomae_base_k400": _published(75, 5e-4, 384),
    "videomae_base_k400_800ep": _published(100, 1e-3, 512, repeats=1),
    "videomae_base_ssv2": _published(30, 5e-4, 384, flip=0.0),
    "videomae_base_ssv2_800ep": _published(50, 5e-4, 512, repeats=1, flip=0.0),
    "videomae_large_k400": _published(35, 2e-3, 128),
    "videomae_huge_k400": _published(50, 1e-3, 512, **_STRONG),
    "videomae_base_ucf101": _published(100, 5e-4, 128, layer_decay=0.7, **_STRONG),
    "videomae_base_hmdb51": _published(50, 5e-4, 128, layer_decay=0.7, **_STRONG),
    "umt_base_k710": _umt("base", 35, 2, 2e-4),
    "umt_large_k710": _umt("large", 20, 2, 1e-4),
    **{f"umt_base_{data}": _umt("base", 5, 1, 2e-5) for data in ("k400", "k600", "k700")},
    **{f"umt_large_{data}": _umt("large", 5, 1, 1e-5) for data in ("k400", "k600", "k700")},
    **{
        f"umt_large_{data}_16f": _umt("large", 5, 1, 1e-5, 128) for data in ("k400", "k600", "k700")
    },
    "umt_base_mit": _umt("base", 40, 5, 1e-4, 512, 1),
    "umt_large_mit": _umt("large", 20, 5, 1e-4, 512, 1),
    "umt_base_mit_384px": _umt("base", 4, 1, 1e-5, 256, 1, weight_decay=0.1),
    "umt_large_mit_384px": _umt("large", 4, 1, 1e-5, 128, 1, weight_decay=0.1),
    "umt_base_ssv2": _umt("base", 30, 5, 2e-4, flip=0.0),
    "umt_large_ssv2": _umt("large", 14, 4, 4e-4, flip=0.0),
}
"""By backbone and data set; of VideoMAE's base model the plain name is the longest pre-training.
`amd_small_k400` has the larger of its authors' two batches; nobody published HMDB51's length, nor
recipes for UCF101 and HMDB51 after pre-training on Kinetics. UMT's of `k710` and `ssv2` go on from
stage 1, of `k400`, `k600` and `k700` from a classifier of `k710`, of `mit` from one of `k400`."""


def _published_clips(recipe: str) -> ClipSettings | None:
    words = recipe.split("_")
    if words[0] == "umt" and "ssv2" not in words:
        return _UMT._replace(clips=6) if recipe == "umt_large_mit_384px" else _UMT
    return next((v for k, v in _PUBLISHED.items() if k in words), None)


def clip_settings(
    recipe: str,
    *,
    frames: int,
    stride: int | None = None,
    sampling: Sampling | None = None,
    clips: int | None = None,
    crops: int | None = None,
    trained: Mapping[str, Any] = MappingProxyType({}),
) -> ClipSettings:
    """What is not given comes from the recipe, then from the training run, then is Kinetics' way.

    Args:
        recipe: of fine-tuning, whose name holds its data set.
        frames, stride, sampling, clips, crops: settings of the evaluation.
        trained: `stride` and `sampling` that the backbone was trained with, where known; of a
            fine-tuned one also `clips` and `crops`.
    """
    published = _published_clips(recipe)
    known = trained if published is None else published._asdict()
    stride = stride or known.get("stride") or 4
    sampling = sampling or known.get("sampling") or "stretched"
    usual = 5 if sampling in ("dense", "stretched") else 2
    if published is not None and published.sampling == sampling:
        usual = published.clips
    clips = clips or trained.get("clips") or usual
    return ClipSettings(frames, stride, sampling, clips, crops or trained.get("crops") or 3)
