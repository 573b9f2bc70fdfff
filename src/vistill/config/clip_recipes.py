"""Published fine-tuning and testing of clips (spec amd 11.2, 11.3)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Sampling = Literal["dense", "stretched", "segments", "slices", "sparse"]


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


_PUBLISHED: dict[str, tuple[int, Sampling]] = {
    "k400": (4, "stretched"),
    "ssv2": (2, "segments"),
    "ucf101": (4, "stretched"),
    "hmdb51": (4, "stretched"),
}


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
}
"""By backbone and data set; of VideoMAE's base model the plain name is the longest pre-training.
`amd_small_k400` has the larger of its authors' two batches; nobody published HMDB51's length, nor
recipes for UCF101 and HMDB51 after pre-training on Kinetics."""


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
        recipe: of fine-tuning, whose name ends with its data set.
        frames, stride, sampling, clips, crops: settings of the evaluation.
        trained: `stride` and `sampling` that the backbone was trained with, where known; of a
            fine-tuned one also `clips` and `crops`.
    """
    published = next((v for k, v in _PUBLISHED.items() if k in recipe.split("_")), None)
    known_stride, known_sampling = published or (trained.get("stride"), trained.get("sampling"))
    stride, sampling = stride or known_stride or 4, sampling or known_sampling or "stretched"
    clips = clips or trained.get("clips") or (5 if sampling in ("dense", "stretched") else 2)
    return ClipSettings(frames, stride, sampling, clips, crops or trained.get("crops") or 3)
