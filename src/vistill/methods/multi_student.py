"""Several students of one teacher: it runs once per step, and each student learns as if alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Losses
from vistill.errors import UserError
from vistill.methods.base import Fitting, Method, TrainedModule
from vistill.models.backbone import Backbone


class TrainedTogether(TrainedModule):
    """The trained halves of all students; their losses are added, which leaves gradients apart."""

    def __init__(self, parts: Mapping[str, TrainedModule]) -> None:
        super().__init__()
        self.part = nn.ModuleDict(parts)
        vars(self)["student"] = next(iter(parts.values())).student  # registered above

    def parts(self) -> dict[str, TrainedModule]:
        return {name: cast(TrainedModule, part) for name, part in self.part.items()}

    def forward(self, batch: Batch, targets: Mapping[str, Any]) -> Losses:
        each: dict[str, Losses] = {}
        for name, part in self.part.items():
            with _same_draws(batch.pixels.device):
                each[name] = part(batch, targets[name])
        terms: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        for name, losses in each.items():
            terms[name] = losses.total.detach()
            terms |= {f"{name}/{term}": value for term, value in losses.terms.items()}
            watched |= {f"{name}/{key}": value for key, value in losses.watched.items()}
        total = torch.stack([losses.total for losses in each.values()]).sum()
        return Losses(total, terms, watched)


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """Leave the global generator as it was, so that what one student draws moves no other."""
    if torch.compiler.is_compiling():  # a graph keeps no generator's state
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


class Together(Method):
    """Several students whose targets are maps of one output of the same teacher.

    Args:
        methods: by name; same kind, options and teacher, different students.

    Raises:
        UserError: the method reads its teacher in another way for every student.
    """

    trained: TrainedTogether

    def __init__(self, methods: Mapping[str, Method]) -> None:
        first = next(iter(methods.values()))
        if type(first).teacher_output is Method.teacher_output:
            raise UserError(
                "this method teaches one student at a time; several together can learn by "
                "feature_distillation or kdep, whose teacher sees what the students see"
            )
        parts = {name: method.trained for name, method in methods.items()}
        super().__init__(TrainedTogether(parts), first.teacher)
        # A tuple: what they train is registered above.
        self._methods = (dict(methods),)

    @property
    def methods(self) -> dict[str, Method]:
        """Each student's own method."""
        return self._methods[0]

    @property
    def _first(self) -> Method:
        return next(iter(self.methods.values()))

    def targets(self, batch: Batch) -> dict[str, Any]:
        observed = self.observed(batch)
        return {name: method.target_of(observed) for name, method in self.methods.items()}

    def observation(self) -> dict[str, Any]:
        return self._first.observation()

    def teacher_output(self, batch: Batch) -> Float[Tensor, "b *n d"]:
        return self._first.teacher_output(batch)

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        return self._first.view(batch, augment=augment)

    def fitting(self, pictures: int) -> Fitting | None:
        found = [method.fitting(pictures) for method in self.methods.values()]  # all may refuse
        return found[0]

    def install(self, fitted: Mapping[str, Tensor]) -> str:
        found = {name: method.install(fitted) for name, method in self.methods.items()}
        return "\n         ".join(f"{name}: {text}" for name, text in found.items())

    def train(self, mode: bool = True) -> Self:
        for method in getattr(self, "_methods", ({},))[0].values():
            method.train(mode)
        return super().train(mode)

    def to_device(self, device: torch.device | str) -> "Together":
        super().to_device(device)
        for method in self.methods.values():
            method.to(device)
        return self

    @property
    def students(self) -> dict[str, Backbone]:
        return {name: method.backbone for name, method in self.methods.items()}
