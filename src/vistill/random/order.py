"""Which sample comes when, and with which random seed: pure functions of (seed, epoch, sample)."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
HELD_OUT = 1
TRAIN = 2
MIXTURE = 3


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea, Flood 2014) on uint64."""
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


def sample_seeds(seed: int, epoch: int, samples: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """One int64 per sample, a hash of run seed, epoch and sample index."""
    state = np.array([seed], dtype=np.uint64)
    for word in (np.array([epoch], dtype=np.uint64), samples.astype(np.uint64)):
        state = _mix(state + GAMMA) ^ word
    return _mix(state + GAMMA).view(np.int64)


def copy_seed(seed: int, copy: int) -> int:
    """Seed of a further copy of a sample that is decoded once; copy 0 has the sample's own."""
    if copy == 0:
        return seed
    state = np.array([seed], dtype=np.int64).view(np.uint64)
    step = np.array([copy], dtype=np.uint64) * MIX_1  # another step than that of replacements
    return int(_mix(state + step).view(np.int64)[0])


def replacement(slot_seed: int, attempt: int, n: int) -> int:
    """Position in 0..n-1 that stands in for a broken sample at the given attempt (from 1)."""
    state = np.array([slot_seed], dtype=np.int64).view(np.uint64)
    step = np.array([attempt], dtype=np.uint64) * GAMMA  # arrays wrap around without a warning
    return int(_mix(state + step)[0] % np.uint64(n))


def epoch_order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """A permutation of 0..n-1."""
    return np.random.default_rng([TRAIN, seed, epoch]).permutation(n)


def mixture_steps(passes: Sequence[float], steps: Sequence[int]) -> list[int]:
    """Steps of every source in an epoch of their mixture, at least one.

    Args:
        passes: how often an epoch goes through each source.
        steps: that one pass takes.
    """
    return [max(1, round(w * n)) for w, n in zip(passes, steps, strict=True)]


def mixture_order(steps: Sequence[int], seed: int, epoch: int) -> Int[np.ndarray, " steps"]:
    """The source of every step of an epoch, each as often as `steps` says."""
    sources = np.repeat(np.arange(len(steps)), steps)
    return np.random.default_rng([MIXTURE, seed, epoch]).permutation(sources)


def named_seed(seed: int, name: str) -> int:
    """A seed of something that has a name in a run, not negative."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8)
    return int.from_bytes(digest.digest()) >> 1


def step_seed(seed: int, step: int, rank: int, micro_batch: int = 0) -> int:
    """Seed of torch's global generators for a pass: no history, so a resumed run agrees."""
    place = "/".join(map(str, (seed, step, rank, micro_batch)))
    digest = hashlib.blake2b(place.encode(), digest_size=8)
    return int.from_bytes(digest.digest())


def split_held_out(
    n: int, share: float, seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " held"]]:
    """Split 0..n-1 into training and held-out indices, both ascending.

    A share above zero holds out at least one picture, and at least one remains to train on (of two
    or more pictures).
    """
    count = min(max(round(n * share), 1), n - 1) if share > 0 else 0
    order = np.random.default_rng([HELD_OUT, seed]).permutation(n)
    return np.sort(order[count:]), np.sort(order[:count])
