"""Which frames of a video make a clip, in training and in testing: spec amd 10.3, 11.2 and 11.3;
spec umt 7.

Pure index arithmetic. `n` is the number of frames of the video, at least one.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int

Sampling = Literal["dense", "stretched", "segments", "slices", "intervals", "sparse"]


def dense_clip(
    n: int, frames: int, stride: int, rng: np.random.Generator
) -> Int[np.ndarray, " frames"]:
    """Every `stride`-th frame from a random start (VideoMAE's and AMD's pre-training on Kinetics).

    The last step repeats where the next would reach the end; as published, a step never lands on
    the very last frame.
    """
    free = n - frames * stride
    start = int(rng.integers(0, free + 1)) if free >= 0 else 0
    steps = max(0, (n - 2 - start) // stride)
    return start + stride * np.minimum(np.arange(frames), steps)


def stretched_clip(
    n: int, frames: int, stride: int, rng: np.random.Generator
) -> Int[np.ndarray, " frames"]:
    """Evenly spaced over `frames * stride` frames, both ends included (AMD's pre-training on SSV2,
    fine-tuning on Kinetics).

    A video no longer than that is spread over as many frames as its strides, then its last frame
    repeats.
    """
    span = frames * stride
    if n > span:
        end = int(rng.integers(span, n))
        places = np.linspace(end - span, end, frames)
        return np.clip(places, end - span, end - 1).astype(np.int64)
    places = np.full(frames, float(n))
    places[: n // stride] = np.linspace(0, n, n // stride)
    return np.clip(places, 0, n - 1).astype(np.int64)


def segment_clip(n: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, " frames"]:
    """A random frame of each of `frames` equal segments (TSN; fine-tuning on SSV2).

    Of a shorter video every frame, after repeats of the first (AMD's rule).
    """
    length = n // frames
    if length == 0:
        return np.maximum(np.arange(frames) - (frames - n), 0)
    return np.arange(frames) * length + rng.integers(0, length, size=frames)


def _slices(n: int, frames: int) -> tuple[float, Int[np.ndarray, " frames"]]:
    """Length of `frames` equal slices from the first frame to the last, and where each begins.

    Halves are rounded to even numbers.
    """
    length = (n - 1) / frames
    return length, np.round(length * np.arange(frames + 1)).astype(np.int64)


def slice_clip(n: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, " frames"]:
    """A random frame of each of `frames` equal slices, both borders included (UMT's fine-tuning on
    Kinetics); unlike segments, slices leave no frame at the end out."""
    _, borders = _slices(n, frames)
    return rng.integers(borders[:-1], borders[1:], endpoint=True)


def interval_clip(n: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, " frames"]:
    """A random frame of each of `frames` equal intervals but the last of each, or, where one has a
    single frame, any frames in order (UMT's second stage); a shorter video's last frame repeats."""
    starts, ends = _intervals(n, frames)
    if (starts == ends).any():
        chosen = np.sort(rng.permutation(n)[: len(starts)])
    else:
        chosen = rng.integers(starts, ends)
    return np.pad(chosen, (0, frames - len(chosen)), mode="edge")


def _intervals(n: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last frame of equal intervals, no more than there are frames."""
    borders = np.linspace(0, n, min(n, frames) + 1).astype(np.int64)
    return borders[:-1], borders[1:] - 1


def sparse_clip(n: int, frames: int, rng: np.random.Generator) -> Int[np.ndarray, " frames"]:
    """Evenly spaced over the whole video, with one random phase for all frames."""
    return ((np.arange(frames) + rng.random()) * (n / frames)).astype(np.int64)


def training_clip(
    n: int, frames: int, stride: int, sampling: Sampling, rng: np.random.Generator
) -> Int[np.ndarray, " frames"]:
    """Frame indices of a random clip by any of the six ways; `stride` counts for the first two."""
    match sampling:
        case "dense":
            return dense_clip(n, frames, stride, rng)
        case "stretched":
            return stretched_clip(n, frames, stride, rng)
        case "segments":
            return segment_clip(n, frames, rng)
        case "slices":
            return slice_clip(n, frames, rng)
        case "intervals":
            return interval_clip(n, frames, rng)
        case "sparse":
            return sparse_clip(n, frames, rng)


def dense_views(n: int, frames: int, stride: int, clips: int) -> Int[np.ndarray, "clips frames"]:
    """Clips of every `stride`-th frame, spread evenly over the video; a single one in its middle.

    Of a video that is too short the last of these frames repeats.
    """
    strided = np.arange(0, n, stride)
    strided = np.pad(strided, (0, max(0, frames - len(strided))), mode="edge")
    free = len(strided) - frames
    starts = (np.arange(clips) * (free / (clips - 1))).astype(int) if clips > 1 else [free // 2]
    return np.stack([strided[start : start + frames] for start in starts])


def segment_views(n: int, frames: int, clips: int) -> Int[np.ndarray, "clips frames"]:
    """`frames` segments each give `clips` evenly spaced frames, which the clips share out in turn
    (SSV2)."""
    tick = n / frames
    phases = [0.0, *(tick / y for y in range(2, clips + 1))]
    chosen = np.sort([int(phase + tick * x) for phase in phases for x in range(frames)])
    return np.stack([chosen[k::clips] for k in range(clips)])


def middle_of_segments(n: int, frames: int) -> Int[np.ndarray, "1 frames"]:
    """The middle frame of each of `frames` segments (SSV2's validation)."""
    tick = n / frames
    return (tick / 2 + tick * np.arange(frames)).astype(np.int64)[None]


def slice_views(n: int, frames: int, clips: int) -> Int[np.ndarray, "clips frames"]:
    """One frame of each of `frames` equal slices, the clips' spread evenly inside them; of a single
    clip the middle ones (UMT's tests on Kinetics)."""
    length, borders = _slices(n, frames)
    steps = (length / (clips + 1) * np.arange(1, clips + 1)).astype(np.int64)
    return borders[:-1] + steps[:, None]


def middle_of_intervals(n: int, frames: int) -> Int[np.ndarray, "1 frames"]:
    """The middle frame of each of `frames` equal intervals (UMT's second stage, in tests)."""
    starts, ends = _intervals(n, frames)
    middle = (starts + ends) // 2
    return np.pad(middle, (0, frames - len(middle)), mode="edge")[None]


def clip_views(
    n: int, frames: int, stride: int, sampling: Sampling, clips: int
) -> Int[np.ndarray, "clips frames"]:
    """Frame indices of the clips to test on, by the way the model was trained."""
    if sampling in ("dense", "stretched"):
        return dense_views(n, frames, stride, clips)
    if sampling == "slices":
        return slice_views(n, frames, clips)
    if clips == 1 and sampling == "intervals":
        return middle_of_intervals(n, frames)
    if clips == 1:
        return middle_of_segments(n, frames)
    return segment_views(n, frames, clips)


def span(frames: int, stride: int, sampling: Sampling) -> int:
    """Frames that a clip covers without repeating any."""
    return frames * stride if sampling in ("dense", "stretched") else frames
