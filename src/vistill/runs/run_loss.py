"""The loss of a pre-training run, as it stands at its newest checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.config.loading import load_config
from vistill.errors import UserError
from vistill.runs.inspecting import Opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from vistill.methods.base import Method

_AT_ONCE = 32


def pretraining_loss(opened: Opened, run: Path) -> "tuple[nn.Module, Callable[[], float], int]":
    """The student of a run, and the mean loss of its method on the samples as its weights are now.

    The teacher looks at every sample once. Samples are cropped as the held-out ones of the run, and
    masks are the same at every call.

    Args:
        opened: the samples.
        run: folder of the run.

    Returns:
        The student, the loss, and the number of samples.

    Raises:
        UserError: the run cannot be built again, has no checkpoint, or none can be read.
    """
    import torch

    from vistill.data import BrokenFiles
    from vistill.methods.shared_view import SharedView
    from vistill.runs.reading import open_samples
    from vistill.training.distributed import alone

    config = load_config(str(run / "config.yaml"), [])
    if config.students is not None or config.data.sources is not None:
        raise UserError(
            f"{run} trained several students or on several sources, whose loss is no single one; "
            "--landscape is for the others"
        )
    section = config.data.model_copy(update={"train": opened.source.name, "root": None})
    reading = open_samples(section, config.method)
    asked = opened.samples[: opened.config.landscape.pictures]
    method, device = _method(config, run), alone(opened.config.device).device
    method.to_device(device).eval()
    reading = replace(reading, inputs=method.inputs or reading.inputs)
    broken = BrokenFiles(len(asked), max_share=1.0, noun=reading.source.media.noun)
    found = reading.eval_batches(asked, batch_size=_AT_ONCE, workers=0, broken=broken)
    shared = method if isinstance(method, SharedView) else None
    batches = []
    with torch.no_grad():
        for one in found:
            batch = replace(one, seeds=one.ids).to(device)
            if shared is None:
                batches.append((batch, None))
            else:
                seen = shared.view(batch, augment=False)
                batches.append((seen, shared.target_of(shared.features(seen))))
    if not batches:
        raise UserError(f"none of the {len(asked)} samples of {opened.source.name} can be read")
    count = sum(len(batch) for batch, _ in batches)

    @torch.no_grad()
    def loss() -> float:
        total = 0.0
        for batch, target in batches:
            losses = method(batch) if shared is None else shared.compare(batch, target)
            total += float(losses.total) * len(batch)
        return total / count

    return method.student, loss, count


def _method(config: Any, run: Path) -> "Method":
    """The method of a run with the weights of its newest checkpoint."""
    from safetensors.torch import load_file

    from vistill.runs.build import build
    from vistill.training.checkpoint import load_newest
    from vistill.training.errors import TrainingError
    from vistill.training.target_fit import FITTED

    try:
        saved = load_newest(run / "checkpoints")
    except TrainingError as error:
        raise UserError(str(error)) from error
    if saved is None:
        raise UserError(f"{run} has no checkpoint, so the rest of its method is not known")
    classes = [x for name, x in saved["model"].items() if name == "classifier.weight"]
    method = build(config, num_classes=len(classes[0]) if classes else "its labels are not read")
    if (run / FITTED).is_file():
        method.use_fit(load_file(run / FITTED))
    other = set(method.state_dict()) ^ set(saved["model"])
    if other:
        raise UserError(
            f"{run} was trained by a version of vistill whose method had other parts (such as "
            f"{min(other)}); inspect it with that one, which environment.json names"
        )
    method.load_state_dict(saved["model"])
    return method
