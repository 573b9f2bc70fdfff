"""Several students of one teacher: it runs once per step, and each student learns as if alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vistill.batch import Batch, Features, Losses
from vistill.errors import UserError
from vistill.methods.base import Method, TargetFit
from vistill.methods.shared_view import SharedView
from vistill.models.backbone import Backbone


class MultiStudent(SharedView):
    """Several students whose targets are maps of the same features of the same teacher.

    Their losses are added, which leaves their gradients apart.

    Args:
        methods: by the name of the student; same kind, options and teacher, different students.

    Raises:
        UserError: the method reads its teacher in another way for every student.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        nn.Module.__init__(self)
        first = next(iter(methods.values()))
        if not isinstance(first, SharedView):
            raise UserError(
                "this method teaches one student at a time: what it reads of its teacher is no "
                "function of the view of a sample alone"
            )
        if first.reader is not None:
            raise UserError(
                "this method teaches one student at a time: what reads its sentences belongs to it"
            )
        self.part = nn.ModuleDict(methods)
        self._check_keys()
        # Registered above, once.
        vars(self).update(student=first.student, ours=first.ours, _theirs=first.theirs)
        self.inputs, self.targets_change = first.inputs, first.targets_change

    def _check_keys(self) -> None:
        """Raise a UserError if two students would read the teacher in different ways."""
        keys = {name: method.cache_key() for name, method in self.methods.items()}
        first, wanted = next(iter(keys.items()))
        for name, key in keys.items():
            for word in wanted:
                if key[word] != wanted[word]:
                    raise UserError(
                        f"the students {first} and {name} would read their teacher in different "
                        f"ways ({word}: {wanted[word]} and {key[word]}); train one at a time"
                    )

    @property
    def methods(self) -> dict[str, SharedView]:
        """Each student's own method."""
        return cast("dict[str, SharedView]", dict(self.part))

    @property
    def _first(self) -> SharedView:
        return next(iter(self.methods.values()))

    @property
    def exports(self) -> dict[str, Backbone]:
        return {name: method.student for name, method in self.methods.items()}

    def parts(self) -> dict[str, Method]:
        return {**self.methods}

    def rank_state(self) -> dict[str, Any]:
        each = {name: method.rank_state() for name, method in self.methods.items()}
        return each if any(each.values()) else {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        for name, method in self.methods.items():
            method.load_rank_state(state.get(name, {}))

    def reached(self, progress: float) -> None:
        for method in self.methods.values():
            method.reached(progress)

    def cache_key(self) -> dict[str, Any]:
        return self._first.cache_key()

    def view(self, batch: Batch, *, augment: bool) -> Batch:
        return self._first.view(batch, augment=augment)

    def teacher_features(self, batch: Batch) -> Features:
        return self._first.teacher_features(batch)

    def disagreement(self, ours: Any, theirs: Any) -> Float[Tensor, " b"]:
        return self._first.disagreement(ours, theirs)

    def target_of(self, features: Features) -> dict[str, Any]:
        return {name: method.target_of(features) for name, method in self.methods.items()}

    def compare(self, batch: Batch, target: Mapping[str, Any]) -> Losses:
        each: dict[str, Losses] = {}
        for name, method in self.methods.items():
            with _same_draws(batch.pixels.device):
                each[name] = method.compare(batch, target[name])
        terms: dict[str, Tensor] = {}
        watched: dict[str, Tensor] = {}
        for name, losses in each.items():
            terms[name] = losses.total.detach()
            terms |= {f"{name}/{term}": value for term, value in losses.terms.items()}
            watched |= {f"{name}/{key}": value for key, value in losses.watched.items()}
        total = torch.stack([losses.total for losses in each.values()]).sum()
        return Losses(total, terms, watched)

    def target_fit(self, pictures: int) -> TargetFit | None:
        found = [method.target_fit(pictures) for method in self.methods.values()]  # all may refuse
        return found[0]

    def use_fit(self, fitted: Mapping[str, Tensor]) -> str:
        found = {name: method.use_fit(fitted) for name, method in self.methods.items()}
        return "\n         ".join(f"{name}: {text}" for name, text in found.items())


@contextmanager
def _same_draws(device: torch.device) -> Iterator[None]:
    """Leave the global generator as it was, so that what one student draws moves no other."""
    if torch.compiler.is_compiling():  # a graph keeps no generator's state
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
