"""Cutting pictures and clips into patches and back."""

from jaxtyping import Float
from torch import Tensor


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


def pixel_patches(images: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b l patch"]:
    """Patches with element order (row, column, channel), the layout MAE reconstructs (spec 2.4)."""
    patches = patchify(images, patch_size)
    b, length, _ = patches.shape
    channels = images.shape[1]
    return patches.reshape(b, length, channels, -1).transpose(2, 3).reshape(b, length, -1)


def unpatch_pixels(
    patches: Float[Tensor, "b l patch"], patch_size: int, grid: tuple[int, int]
) -> Float[Tensor, "b c h w"]:
    """The inverse of `pixel_patches`."""
    rows, columns = grid
    b = patches.shape[0]
    cut = patches.reshape(b, rows, columns, patch_size, patch_size, -1)
    return cut.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, rows * patch_size, columns * patch_size)
