"""Cutting pictures and clips into patches and back."""

from jaxtyping import Float
from torch import Tensor

from vistill.image_size import fits, nearest_fitting, shown_size
from vistill.nearest import near_multiples


def patchify(
    images: Float[Tensor, "b c *size"], patch_size: int, tubelet_size: int | None = None
) -> Float[Tensor, "b l patch"]:
    """Patches in row-major (video: time-major) order, laid out like a convolution weight.

    Inside a patch the order is (channel, [time,] row, column), so that a patch embedding is a
    matrix product with the flattened convolution weight.
    """
    if tubelet_size is None:
        b, c, height, width = images.shape
        rows, columns = height // patch_size, width // patch_size
        cut = images.reshape(b, c, rows, patch_size, columns, patch_size)
        return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, rows * columns, -1)
    b, c, frames, height, width = images.shape
    slots, rows, columns = frames // tubelet_size, height // patch_size, width // patch_size
    cut = images.reshape(b, c, slots, tubelet_size, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, slots * rows * columns, -1)


def pixel_patches(
    images: Float[Tensor, "b c *size"], patch_size: int, tubelet_size: int | None = None
) -> Float[Tensor, "b l patch"]:
    """Patches with element order ([time,] row, column, channel), which MAE and VideoMAE
    reconstruct (spec 2.4; spec amd 7)."""
    return channels_last(patchify(images, patch_size, tubelet_size), images.shape[1])


def channels_last(
    patches: Float[Tensor, "b l patch"], channels: int = 3
) -> Float[Tensor, "b l patch"]:
    """Patches of `patchify` with the channel varying fastest."""
    return patches.unflatten(2, (channels, -1)).transpose(2, 3).flatten(2)


def unpatch_pixels(
    patches: Float[Tensor, "b l patch"], patch_size: int, grid: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """The inverse of `pixel_patches`."""
    rows, columns = grid
    b = patches.shape[0]
    cut = patches.reshape(b, rows, columns, patch_size, patch_size, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, rows * patch_size, columns * patch_size)


def require_whole_tokens(
    size: tuple[int, int], patch_size: int, num_frames: int = 1, tubelet_size: int | None = None
) -> None:
    """Raise a ValueError if patches and tubelets do not fill a picture or clip of that size."""
    if not fits(size, patch_size):
        raise ValueError(
            f"{shown_size(size)} pixels are no multiple of the patch size {patch_size}; "
            f"{nearest_fitting(size, patch_size)} would do"
        )
    tubelet = tubelet_size or 1
    if num_frames % tubelet:
        raise ValueError(
            f"{num_frames} frames are no multiple of the tubelet size {tubelet}; "
            f"{near_multiples(num_frames, tubelet)} would do"
        )
