"""Everything random in a run, as arithmetic of its seed: when a sample comes, and what it draws."""

from vistill.random.order import (
    copy_seed,
    epoch_order,
    mixture_order,
    mixture_steps,
    named_seed,
    replacement,
    sample_seeds,
    split_held_out,
    step_seed,
)
from vistill.random.streams import Stream, own_stream, per_sample_uniform

__all__ = [
    "Stream",
    "copy_seed",
    "epoch_order",
    "mixture_order",
    "mixture_steps",
    "named_seed",
    "own_stream",
    "per_sample_uniform",
    "replacement",
    "sample_seeds",
    "split_held_out",
    "step_seed",
]
