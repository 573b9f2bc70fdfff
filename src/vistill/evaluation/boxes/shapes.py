"""Shapes of things as COCO writes them, by faster-coco-eval."""

from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vistill.errors import UserError


def require_coco() -> None:
    """
    Raises:
        UserError: what measures is not installed.
    """
    if find_spec("faster_coco_eval") is None:
        raise UserError("the protocol boxes needs an extra: pip install 'vistill[detection]'")


def runs_of(shape: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A shape (polygons, or runs of pixels as a list or packed) as packed runs.

    Args:
        shape: as it stands in an annotation.
        size: height and width of the picture.
    """
    from faster_coco_eval.core import mask

    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects(shape, *size))
    if isinstance(shape["counts"], list):
        return mask.frPyObjects(shape, *shape["size"])
    return shape


def mask_of(shape: Any, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """1 where a thing of this shape is on a picture of this size."""
    from faster_coco_eval.core import mask

    return np.ascontiguousarray(mask.decode(runs_of(shape, size)))


def packed(masks: UInt8[np.ndarray, "k h w"]) -> list[dict[str, Any]]:
    """Masks as packed runs."""
    from faster_coco_eval.core import mask

    return [mask.encode(np.asfortranarray(one)) for one in masks]
