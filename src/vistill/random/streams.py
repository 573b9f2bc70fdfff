"""Counter-based random numbers: a sample's draws depend on its seed alone.

Batch layout, ranks, accumulation and resuming therefore cannot change a run, and no generator state
has to be saved. The mixer is splitmix64 (Steele, Lea, Flood 2014) in wrapping int64 arithmetic.
"""

import hashlib
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Stream(IntEnum):
    """Independent uses of one sample's seed."""

    MASK = 1
    DROP_PATH = 2
    COLOR_JITTER = 3
    RANDOM_ERASING = 4
    TEACHER_DROP_PATH = 5
    MIXING = 6
    ERASING_NOISE = 7
    LIGHTING = 8
    HEAD_DROPOUT = 9
    BOX_JITTER = 10
    NEGATIVE_CLIPS = 11
    NEGATIVE_SENTENCES = 12
    HIDDEN_WORDS = 13
    ANCHORS = 14
    REGIONS = 15


def own_stream(name: str) -> int:
    """A stream of a method of the user's own, by a name such as `my_method.mask`."""
    digest = hashlib.blake2b(name.encode(), digest_size=6).digest()
    return int.from_bytes(digest) + 2**16  # apart from all of `Stream`


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: Int[Tensor, "*s"], bits: int) -> Int[Tensor, "*s"]:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def per_sample_uniform(
    seeds: Int[Tensor, " b"], count: int, stream: int
) -> Float[Tensor, "b count"]:
    """Uniform draws in [0, 1) with 24 bits, `count` for every sample, on the device of `seeds`.

    Args:
        seeds: one per sample, such as `Batch.seeds`.
        count: draws per sample.
        stream: of `Stream`, or an `own_stream`.
    """
    state = _mix(seeds + _signed(int(stream) * _GAMMA % (1 << 64)))
    steps = torch.arange(1, count + 1, device=seeds.device) * _GAMMA
    bits = _shift_right(_mix(state[:, None] + steps), 40)
    return bits.to(torch.float32) / (1 << 24)
