"""The pass over the training pictures that some methods need before their first step: shared by all
ranks, paused and resumed like the run itself, and kept in the run's folder."""

import time
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vistill.batch import Batch
from vistill.errors import Failure
from vistill.files import write_atomic
from vistill.methods.base import Method, TargetFit
from vistill.stopping import Interrupted, StopSignals
from vistill.training.distributed import World
from vistill.training.errors import TrainingError
from vistill.training.run_folder import RunFolder

FITTED = "fitted.safetensors"


def fit_targets(
    method: Method,
    target_fit: TargetFit,
    batches: Callable[[int], Iterator[Batch]],
    *,
    run: RunFolder,
    world: World,
    checkpoint_minutes: float,
) -> str:
    """Show `target_fit` every training picture once and give `method` what it found.

    The result is kept in `fitted.safetensors` in the run's folder and read from there the next
    time. An unfinished pass goes on where it was last saved.

    Args:
        method: moved to the device of `world`.
        target_fit: what sees the pictures.
        batches: this rank's pictures with an id above the one given, in ascending order.
        run: its folder.
        world: the ranks.
        checkpoint_minutes: how often an unfinished pass is saved.

    Returns:
        A line that says what was found.

    Raises:
        UserError: what was found does not allow what the method is asked for.
        TrainingError: pictures cannot be read any more; the pass was saved.
        Interrupted: SIGTERM, SIGHUP or SIGINT; the pass was saved.
    """
    method.to_device(world.device)
    path = run.path / FITTED
    if world.once(path.is_file):
        return method.use_fit(load_file(path))
    unfinished = run.checkpoints / f"fitting-{world.rank}-of-{world.size}.safetensors"
    last = -1
    if unfinished.is_file():
        state = load_file(unfinished)
        last = int(state.pop("last"))
        target_fit.merge(state)

    def pause() -> str:
        """Save, and say so."""
        state = target_fit.state() | {"last": torch.tensor(last)}
        write_atomic(unfinished, save(state))
        return (
            f"stopped after {target_fit.count} pictures of the pass before the first step; "
            f"saved in {run.path}, and the same command continues from there"
        )

    saved_at = time.monotonic()
    with StopSignals() as stopping:
        try:
            for batch in batches(last):
                target_fit.add(batch.to(world.device))
                last = int(batch.ids[-1])
                if stopping.received is not None:
                    raise Interrupted("", stopping.received)
                if time.monotonic() - saved_at >= 60 * checkpoint_minutes:
                    pause()
                    saved_at = time.monotonic()
        except Interrupted as stop:  # here, or while waiting for pictures
            raise Interrupted(pause(), stop.signum) from stop
        except Failure as error:
            raise TrainingError(f"{error}; {pause()}") from error
    others = world.gather(target_fit.state())[1:]

    def finish() -> dict[str, Tensor]:
        for state in others:
            target_fit.merge(state)
        result = target_fit.result()
        write_atomic(path, save(result))
        return result

    fitted = world.once(finish)
    unfinished.unlink(missing_ok=True)
    return method.use_fit(fitted)
