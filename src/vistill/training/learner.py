"""A method ready to learn: frozen where nothing reaches, distributed, with optimiser and scaler."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vistill.batch import Batch, Losses
from vistill.config.optim import OptimConfig
from vistill.config.schema import TrainConfig
from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.ranks import copied
from vistill.methods.unreached import freeze_unreached_by_any
from vistill.models.compiled import compile_teacher
from vistill.models.precision import AUTOCAST
from vistill.training.checkpoint import load_optimizer_state, optimizer_state
from vistill.training.distributed import World, distribute, whole
from vistill.training.optim import (
    Group,
    build_optimizer,
    layer_decay_groups,
    pretrain_groups,
    set_lr,
    set_weight_decay,
    trainable,
)
from vistill.training.precision import plain
from vistill.training.ranks import ranks_of

_SMALLEST_SCALE = 2.0**-14


def _on_host(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True)


@contextmanager
def _switches(method: Method, train: TrainConfig) -> Iterator[None]:
    """Activation checkpointing and a compiled teacher, for as long as the run lasts."""
    teacher, before = method.teacher, {}
    for student in method.exports.values():
        usual = getattr(student, "activation_checkpointing", None)
        if usual is not None:
            before[student] = usual
        elif train.activation_checkpointing:
            raise UserError(
                f"train.activation_checkpointing: the student {type(student).__name__} "
                "cannot recompute its blocks; turn it off or use one of vistill's ViTs"
            )
    for student in before:
        vars(student)["activation_checkpointing"] = train.activation_checkpointing
    undo = compile_teacher(teacher) if teacher is not None and train.compile else None
    try:
        yield
    finally:
        for student, usual in before.items():
            vars(student)["activation_checkpointing"] = usual
        if undo is not None:
            undo()


@contextmanager
def _frozen(method: Method, batches: Sequence[Batch]) -> Iterator[tuple[list[str], bool]]:
    """Parameters of `method` that get no gradient, frozen as long as the run lasts; and whether
    some kinds of batches reach more than others."""
    names, uneven = freeze_unreached_by_any(method, batches)
    parameters = dict(method.named_parameters())
    try:
        yield names, uneven
    finally:
        for name in names:
            parameters[name].requires_grad_(True)


class Learner:
    """The maths of a step, whatever the method, the precision and the number of ranks.

    Args:
        method: on the device already, the same on every rank.
        samples: one batch of every kind, from which to learn which parameters get a gradient.
        optim: optimiser settings.
        train: precision, compilation and strategy.
        groups: parameter groups; None: those of pre-training.
        world: the ranks.
        cleanup: gives the method back as it was when the run ends.

    Attributes:
        frozen: names of parameters that get no gradient.
    """

    def __init__(
        self,
        method: Method,
        samples: Sequence[Batch],
        *,
        optim: OptimConfig,
        train: TrainConfig,
        groups: list[Group] | None,
        world: World,
        cleanup: ExitStack,
    ) -> None:
        self.method, self.optim, self.world = method, optim, world
        precision = plain(train.precision, world.device)
        self.dtype, self.scaled = AUTOCAST[precision], precision == "fp16"
        cleanup.enter_context(_switches(method, train))
        cleanup.enter_context(ranks_of(method, world))
        few = [batch.first(2).to(world.device) for batch in samples]
        self.frozen, uneven = cleanup.enter_context(_frozen(method, few))

        chosen = trainable(self._pretraining() if groups is None else groups)
        names = {parameter: name for name, parameter in method.named_parameters()}
        self.strategy = distribute(
            method,
            world,
            train.strategy,
            compiled=train.compile,
            uneven=uneven,
            dtype=self.dtype,
        )
        cleanup.callback(self.strategy.close)
        distributed = dict(self.strategy.module.named_parameters())
        for group in chosen:
            group["params"] = [distributed[names[parameter]] for parameter in group["params"]]
        self.parameters: dict[str, list[Tensor]] = {}
        for group in chosen:
            self.parameters.setdefault(group.get("student", ""), []).extend(group["params"])
        self.optimizer = build_optimizer(chosen, optim)
        self._marked: list[tuple[Tensor, Tensor]] = []
        self._rank_state: dict[str, Any] = {}
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.scaled)

    def _pretraining(self) -> list[Group]:
        optim, found = self.optim, []
        for name, part in self.method.parts().items():
            if optim.layer_decay is None:
                groups = pretrain_groups(
                    part,
                    optim.weight_decay,
                    (*optim.no_decay, *part.no_decay),
                    decay_biases=optim.decay_biases,
                )
            elif not part.student.depth:
                raise UserError(
                    f"optim.layer_decay={optim.layer_decay:g} goes by blocks, and the student "
                    f"({part.student.origin}) has none; leave it out"
                )
            else:
                groups = layer_decay_groups(
                    part,
                    optim.weight_decay,
                    optim.layer_decay,
                    part.student.depth,
                    layer_of=part.student.parameter_layers().__getitem__,
                    no_decay_names=(*optim.no_decay, *part.no_decay),
                    decay_biases=optim.decay_biases,
                )
            found += [group | {"student": name, "peak_scale": part.peak_scale} for group in groups]
        return found

    def accumulate(self, batch: Batch, share: int, *, last: bool) -> Losses:
        """Forward and backward of one of `share` micro-batches of a step."""
        device = self.world.device
        enabled = self.dtype is not None
        with self.strategy.accumulating(last):
            with torch.autocast(device.type, self.dtype or torch.bfloat16, enabled=enabled):
                losses: Losses = self.strategy.called(batch.to(device))
            self.scaler.scale(losses.total / share).backward()
        return losses

    def mark(self) -> None:
        """Remember what the passes of a step change, before its first."""
        self._marked = [(buffer, buffer.clone()) for buffer in self.method.buffers()]
        self._rank_state = copied(self.strategy.module.rank_state())

    def rewind(self) -> None:
        """Undo the passes since `mark`, of a step that is not to be finished."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in self._marked:
                buffer.copy_(before)
        if self._rank_state:
            self.strategy.module.load_rank_state(self._rank_state)

    def update(self, rate: float | Callable[[float], float]) -> Float[Tensor, ""]:
        """Clip and step; the norm of all gradients before clipping, on the device.

        Args:
            rate: the learning rate, or what it is by the factor of a student's own peak.
        """
        self.scaler.unscale_(self.optimizer)
        norms = []
        for parameters in self.parameters.values():  # a student's gradient is clipped as if alone
            norm = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
            if self.optim.clip_norm is not None:
                clip_grads_with_norm_(parameters, self.optim.clip_norm, norm)
            norms.append(norm)
        set_lr(self.optimizer, rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()

    def decay(self, weight_decay: float) -> None:
        """The weight decay of the next step."""
        set_weight_decay(self.optimizer, weight_decay)

    @property
    def overflowing(self) -> bool:
        """Whether fp16 gradients were infinite so often that the loss scale has vanished."""
        return self.scaled and self.scaler.get_scale() < _SMALLEST_SCALE

    def state(self) -> dict[str, Any]:
        """Weights, buffers, optimiser and scaler, whole, on the host. All ranks together."""
        return {
            "model": self.strategy.state(),
            "optimizer": optimizer_state(self.optimizer, self.strategy.module),
            "scaler": self.scaler.state_dict(),
        }

    def rank_states(self) -> list[dict[str, Any]]:
        """What the method has on each rank for itself, on the host; empty where it has nothing.
        All ranks together."""
        states = self.world.gather(copied(self.strategy.module.rank_state(), _on_host))
        return states if any(states) else []

    def load(self, saved: dict[str, Any]) -> None:
        """The inverse of `state` and `rank_states`; every rank passes the same."""
        other = set(self.strategy.module.state_dict()) ^ set(saved["model"])
        if other:
            raise UserError(
                f"this run was begun by a version of vistill whose method had other parts (such as "
                f"{min(other)}): finish it with that version, which environment.json in the run's "
                "folder names, or start anew with --overwrite"
            )
        ranks = saved.get("ranks", [])
        if len(ranks) not in (0, self.world.size):
            raise UserError(
                f"this run's method keeps a state of its own on each of {len(ranks)} rank(s): "
                f"continue it with as many, not with {self.world.size}"
            )
        if ranks:
            self.strategy.module.load_rank_state(ranks[self.world.rank])
        self.strategy.load(saved["model"])
        load_optimizer_state(self.optimizer, self.strategy.module, saved["optimizer"])
        if self.scaled and saved["scaler"]:
            self.scaler.load_state_dict(saved["scaler"])
