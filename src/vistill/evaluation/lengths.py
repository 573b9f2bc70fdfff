"""How long something is trained on few samples, and what of its settings that leaves out."""

from dataclasses import dataclass


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
    samples: int,
    *,
    batch: int,
    epochs: int,
    min_steps: int,
    warmup_epochs: float,
    part: int,
    noun: str = "sample",
) -> Length:
    """The length of a training on `samples`: a batch of no more than all of them, at least
    `min_steps` steps, and at most one `part`-th of it for the warm-up.

    Args:
        section: whose settings these are, for the note.
        samples: to learn from.
        batch, epochs, min_steps, warmup_epochs: as they are set.
        part: 5 allows a fifth for the warm-up.
        noun: what a sample is called.
    """
    fits = min(batch, samples)
    steps = samples // fits
    longer = max(epochs, -(-min_steps // steps))
    warm = min(warmup_epochs, longer / part)
    told = []
    if fits != batch:
        told.append(f"a batch of {fits} instead of {batch}, as there are {samples} {noun}s")
    if longer != epochs:
        told.append(f"{longer} epochs instead of {epochs}, for {section}.min_steps={min_steps}")
    if warm != warmup_epochs:
        told.append(
            f"{warm:.3g} epochs of warm-up instead of {warmup_epochs:g}, which is at most 1/{part} "
            "of the run"
        )
    return Length(fits, longer, warm, f"{section}: {'; '.join(told)}" if told else None)
