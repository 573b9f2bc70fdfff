"""Small labelled clips made of pictures: a window moves, turns or zooms, and the label is how.

One frame does not tell the label, so they separate models that see motion from those that do not.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vistill.data.decode import decode_image
from vistill.data.source import Source
from vistill.files import atomic_writer

MOTIONS = (
    "clockwise",
    "counterclockwise",
    "down",
    "left",
    "right",
    "up",
    "zoom_in",
    "zoom_out",
)
"""Labels, named after what the content of the picture does."""
_SHIFT = (0.2, 0.45)
_TURN = (0.35, 0.8)
_ZOOM = (0.3, 0.6)
_DRIFT = 0.25


def _window_paths(
    motion: str, frames: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " t"], ...]:
    """Shift to the right and down (in window sides), angle (radians) and log scale, per frame.

    Every clip also drifts a little in all other ways, at most `_DRIFT` of the slowest labelled one.
    """
    slow = {"x": _SHIFT[0], "y": _SHIFT[0], "angle": _TURN[0], "zoom": _ZOOM[0]}
    travel = {name: _DRIFT * rate * rng.uniform(-1, 1) for name, rate in slow.items()}
    sign, name, (low, high) = {
        "left": (1, "x", _SHIFT),
        "right": (-1, "x", _SHIFT),
        "up": (1, "y", _SHIFT),
        "down": (-1, "y", _SHIFT),
        "counterclockwise": (1, "angle", _TURN),
        "clockwise": (-1, "angle", _TURN),
        "zoom_out": (1, "zoom", _ZOOM),
        "zoom_in": (-1, "zoom", _ZOOM),
    }[motion]
    travel[name] = sign * rng.uniform(low, high)
    time = np.linspace(-0.5, 0.5, frames)
    return tuple(travel[name] * time for name in ("x", "y", "angle", "zoom"))


def render_clip(
    picture: UInt8[Tensor, "3 h w"],
    motion: str,
    *,
    frames: int,
    size: int,
    rng: np.random.Generator,
) -> UInt8[Tensor, "t size size 3"]:
    """A square window that travels over a picture; beyond the border the picture is mirrored.

    Args:
        picture: what is filmed.
        motion: one of `MOTIONS`, which the content seems to do.
        frames: length of the clip.
        size: side of a frame in pixels.
        rng: draws place, size and speed.
    """
    right, down, angle, zoom = _window_paths(motion, frames, rng)
    height, width = picture.shape[1:]
    side = rng.uniform(0.35, 0.6) * min(height, width)
    x = rng.uniform(side, width - side) if width > 2 * side else width / 2
    y = rng.uniform(side, height - side) if height > 2 * side else height / 2
    # The window stays within this part, and sampling from less memory is several times faster.
    left, top = max(0, int(x - 1.2 * side)), max(0, int(y - 1.2 * side))
    part = picture[:, top : int(y + 1.2 * side) + 1, left : int(x + 1.2 * side) + 1]
    height, width = part.shape[1:]
    x, y = x - left, y - top
    half = side / 2 * np.exp(zoom)
    cosine, sine = np.cos(angle) * half, np.sin(angle) * half
    # Rows of a map from the unit window to pixels, then to the [-1, 1] of grid_sample.
    theta = np.stack(
        [
            np.stack([cosine, -sine, x + side * right], -1),
            np.stack([sine, cosine, y + side * down], -1),
        ],
        1,
    )
    theta /= np.array([width / 2, height / 2])[:, None]
    theta[:, :, 2] -= 1
    # Sampled at twice the size and averaged: a coarse window over a large picture would flicker.
    grid = F.affine_grid(
        torch.from_numpy(theta).float(), [frames, 3, 2 * size, 2 * size], align_corners=False
    )
    views = F.grid_sample(
        part.float()[None].expand(frames, -1, -1, -1),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return F.avg_pool2d(views, 2).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def write_video(path: Path, frames: UInt8[Tensor, "t h w 3"], *, fps: int = 15) -> None:
    """Encode frames as H.264 in MP4, all or nothing."""
    import av  # slow to load, and only writers need it

    with atomic_writer(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "g": "8", "bf": "0", "threads": "1"}
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_motion_clips(
    pictures: Source,
    out: Path,
    *,
    count: int,
    frames: int = 16,
    size: int = 64,
    seed: int = 0,
    indices: Sequence[int] | None = None,
) -> None:
    """Film pictures and write `OUT/<motion>/<number>.mp4`; clips that are there already stay.

    Args:
        pictures: what is filmed; every clip draws one.
        out: folder to write to.
        count: clips in all, shared evenly by the motions.
        frames: frames of a clip.
        size: side of a frame in pixels, even.
        seed: every clip is a function of it and of its number.
        indices: which of the pictures; None: all.
    """
    chosen = np.arange(len(pictures)) if indices is None else np.asarray(indices)
    digits = max(4, math.ceil(math.log10(count)))
    for number in range(count):
        motion = MOTIONS[number % len(MOTIONS)]
        path = out / motion / f"{number:0{digits}}.mp4"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, number])
        # Drawn, not dealt in turn: a picture that always moved alike would give the label away.
        picture = decode_image(pictures.read(int(rng.choice(chosen))))
        write_video(path, render_clip(picture, motion, frames=frames, size=size, rng=rng))
