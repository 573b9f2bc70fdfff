"""Named modules inside a model, and what they give while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vistill.models.backbone import Backbone


def inner_module(model: Backbone) -> nn.Module:
    """What has the named parts: the module behind an adapter, of a detector its backbone."""
    inner: Any = getattr(model, "runs", getattr(model, "module", model))
    return inner if isinstance(inner, nn.Module) else model


@contextmanager
def watched(model: Backbone, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The mean over space of what each named module gives, filled in while the model runs."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        signal = output[0] if isinstance(output, tuple) else output
        if signal.dim() == 4:
            signal = signal.mean(dim=(2, 3))
        elif signal.dim() == 3:
            signal = signal[:, model.num_prefix_tokens :].mean(dim=1)
        seen[name] = signal

    hooks = [
        inner_module(model)
        .get_submodule(name)
        .register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
