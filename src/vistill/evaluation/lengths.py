"""How long something is trained on few samples, and what of its settings that leaves out."""

from dataclasses import dataclass
from typing import Protocol

from vistill.errors import UserError
from vistill.training.distributed import World


class Training(Protocol):
    """The settings of a section that say how long something is trained."""

    @property
    def epochs(self) -> int: ...
    @property
    def min_steps(self) -> int: ...
    @property
    def warmup_epochs(self) -> float: ...


@dataclass(frozen=True)
class Length:
    """Batch, epochs and warm-up that fit.

    Attributes:
        note: what differs from the settings; None where nothing does.
    """

    batch: int
    epochs: int
    warmup_epochs: float
    note: str | None


def fitting_length(
    section: str,
    options: Training,
    samples: int,
    *,
    batch: int,
    part: float,
    noun: str,
    world: World | None = None,
) -> Length:
    """The length of a training on `samples`: a batch of no more than all of them, at least
    `min_steps` steps, and at most one `part`-th of it for the warm-up.

    Args:
        section: whose options these are, for the note.
        options: epochs, steps and warm-up as they are set.
        samples: to learn from.
        batch: as it is set.
        part: 5 allows a fifth for the warm-up.
        noun: what a sample is called.
        world: the ranks, which share every batch; None: this process alone.

    Raises:
        UserError: a batch that the ranks cannot share.
    """
    fits = min(batch, samples)
    if world is not None:
        _require_shared(section, fits, samples, noun, world)
    steps = samples // fits
    longer = max(options.epochs, -(-options.min_steps // steps))
    warm = min(options.warmup_epochs, longer / part)
    told = []
    if fits != batch:
        told.append(f"a batch of {fits} instead of {batch}, as there are {samples} {noun}s")
    if longer != options.epochs:
        least = f"{section}.min_steps={options.min_steps}"
        told.append(f"{longer} epochs instead of {options.epochs}, for {least}")
    if warm != options.warmup_epochs:
        told.append(
            f"{warm:.3g} epochs of warm-up instead of {options.warmup_epochs:g}, which is at most "
            f"1/{part:g} of the run"
        )
    return Length(fits, longer, warm, f"{section}: {'; '.join(told)}" if told else None)


def _require_shared(section: str, batch: int, samples: int, noun: str, world: World) -> None:
    if samples < world.size:
        raise UserError(
            f"{world.size} ranks are more than the {samples} {noun}s to learn from; start fewer"
        )
    if batch % world.size:
        why = f", as there are {samples} {noun}s," if batch == samples else ""
        raise UserError(
            f"{section}.global_batch_size={batch}{why} cannot be shared by {world.size} ranks; "
            f"{max(world.size, batch - batch % world.size)} would do"
        )
