"""Several ranks as one: where this process stands, and a method under DDP or FSDP2."""

import atexit
import copy
import datetime
import functools
import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vistill.errors import UserError
from vistill.methods.base import Method
from vistill.methods.ranks import copied
from vistill.training.errors import TrainingError

T = TypeVar("T")

# Rank 0 alone evaluates and exports; the others may have to wait for hours without an alarm.
_PATIENCE = datetime.timedelta(days=7)


@functools.cache
def _control() -> dist.ProcessGroup:
    """A gloo group for small Python objects, beside the group that moves gradients."""
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=_PATIENCE))


@dataclass(frozen=True)
class World:
    """This process among all ranks of a run."""

    rank: int
    size: int
    device: torch.device

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Of the device."""
        return "cpu" if self.device.type == "cpu" else "cuda"

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=_control())
        return values

    def broadcast(self, value: T) -> T:
        """`value` of rank 0, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=_control())
        return box[0]

    def once(self, work: Callable[[], T]) -> T:
        """Let rank 0 alone do `work`; what it returns, or raises, on every rank."""
        if self.size == 1:
            return work()
        result: T | None = None
        error: Exception | None = None
        try:
            result = work() if self.main else None
        except Exception as raised:
            error = raised
        told: Exception | None = error
        if error is not None and not isinstance(error, UserError | TrainingError):
            told = TrainingError(f"rank 0 failed: {error!r}")  # others may not survive pickling
        result, told = self.broadcast((result, told))
        if told is not None:
            raise error or told
        return cast(T, result)


def device_kind(device: Literal["auto", "cpu", "cuda"], setting: str) -> Literal["cpu", "cuda"]:
    """What `auto` stands for on this machine; `setting` is where it was chosen.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(f"{setting}=cuda, but torch finds no CUDA device; use cpu or auto")
    return "cuda" if available and device != "cpu" else "cpu"


def alone(device: Literal["auto", "cpu", "cuda"] = "auto", setting: str = "device") -> World:
    """A world of this process, whatever others there are; see `device_kind`."""
    return World(0, 1, torch.device(device_kind(device, setting)))


def connect(
    device: Literal["auto", "cpu", "cuda"] = "auto", setting: str = "train.device"
) -> World:
    """Join the ranks that `torchrun` started (once per process); alone, a world of one.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    kind = device_kind(device, setting)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, torch.device(kind))
    place = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else None
    if place is not None:
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("gloo" if place is None else "nccl", device_id=place)
        _control()
        atexit.register(_disconnect)
    return World(dist.get_rank(), size, place or torch.device(kind))


@contextmanager
def missed(world: World, place: str) -> Iterator[None]:
    """Tell in a sentence that another rank is gone, which shows where this one waits for it.

    Args:
        world: the ranks.
        place: where the run goes on from, in words.

    Raises:
        TrainingError: instead of what gloo or NCCL raise.
    """
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        lost = isinstance(error, dist.DistError) or re.search("gloo|nccl", str(error), re.I)
        if world.size == 1 or not lost:
            raise
        raise TrainingError(
            f"rank {world.rank} of {world.size} has lost another one: its process or host ended, "
            f"or the network between them did; {place}"
        ) from error


def _disconnect() -> None:
    """Leave the groups, and let nothing hold one: its threads have to end before the interpreter.

    One that still frees a tensor while Python shuts down aborts the process.
    """
    dist.destroy_process_group()
    _control.cache_clear()
    gc.collect()  # DDP, and the frames of an exception, hold groups in cycles


def whole(value: Any) -> Any:
    """A sharded tensor gathered (by all ranks together); anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def sharded_like(value: Any, reference: Any) -> Any:
    """`value`, which every rank holds whole, cut like `reference` where that is sharded."""
    if not hasattr(reference, "full_tensor"):
        return value
    if not isinstance(value, Tensor) or value.shape != reference.shape:
        return value
    # Imported here: it costs a second, and only sharded runs need it.
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        value.to(reference.device),
        reference.device_mesh,
        reference.placements,
        src_data_rank=None,  # every rank holds the whole tensor: nothing to send
    )


class Replicated:
    """A method on one rank, or copied to all of them and synchronised by DDP.

    Attributes:
        called: what a step calls instead of the method.
        module: what holds the trained parameters.
        collective: whether all ranks have to gather the state together; else rank 0 has it all.
    """

    called: nn.Module
    module: Method
    collective = False

    def __init__(
        self, method: Method, world: World, *, compiled: bool, uneven: bool = False
    ) -> None:
        self.module = self.called = method
        self.ddp: DistributedDataParallel | None = None
        if world.size > 1:
            with warnings.catch_warnings():
                # torch renames `broadcast_buffers`; the new name is missing from older versions.
                warnings.simplefilter("ignore", FutureWarning)
                self.called = self.ddp = DistributedDataParallel(
                    method,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    find_unused_parameters=uneven,
                )
        if compiled:
            # Behind DDP, whose buckets the compiler cuts its graph at: gradients travel meanwhile.
            self.called = cast(nn.Module, torch.compile(self.called))

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass; gradients travel in the last one of a step."""
        if self.ddp is not None and not last:
            return cast(AbstractContextManager[None], self.ddp.no_sync())
        return nullcontext()

    def unwrapped(self) -> AbstractContextManager[None]:
        """The method that the caller gave has the present weights, on every rank."""
        return nullcontext()

    def state(self) -> dict[str, Tensor]:
        """All weights and buffers, whole, on the host."""
        return {k: whole(v).detach().cpu() for k, v in self.module.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`; every rank passes the same."""
        self.module.load_state_dict(state)

    def close(self) -> None:
        """Leave the method with its weights, for good."""


class Sharded(Replicated):
    """A twin of a method sharded by FSDP2; the method itself rests on the host meanwhile.

    `fully_shard` turns parameters into shards for good, so the method that the caller gave is kept
    apart and filled again where somebody looks at it: for evaluation, for exports and at the end.
    Both have the same teacher.

    On CUDA blocks travel in the autocast type, half the bytes, and are summed in fp32; a CPU's
    layer norm takes no weights of another type than its tokens, so there they travel in fp32.
    """

    collective = True

    def __init__(
        self, method: Method, world: World, *, compiled: bool, dtype: torch.dtype | None = None
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.method, self.world = method, world
        for name, parameter in method.named_parameters():
            if not parameter.ndim:
                raise UserError(
                    f"train.strategy=fsdp2 cannot share out the single number '{name}' of the "
                    "method; give it the shape [1], or use ddp"
                )
        twin = copy.deepcopy(method, {id(method.teacher): method.teacher})
        mesh = init_device_mesh(world.device.type, (world.size,))
        cheap = dtype if world.device.type == "cuda" else None
        # Tokens come as they are: autocast decides what a block makes of them.
        policy = MixedPrecisionPolicy(cheap, cheap and torch.float32, cast_forward_inputs=False)
        for student in twin.exports.values():
            for block in cast(Any, getattr(student, "blocks", ())):
                if compiled:
                    block.compile()
                fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(twin, mesh=mesh)
        self.module = self.called = twin.train()
        method.cpu()

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        cast(Any, self.module).set_requires_gradient_sync(last)
        with warnings.catch_warnings():
            # Tapped signals are views; nobody changes them in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
            yield

    @contextmanager
    def unwrapped(self) -> Iterator[None]:
        self.close()
        try:
            yield
        finally:
            self.method.cpu()

    def load(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(sharded_like(state[name], tensor))

    def close(self) -> None:
        self.method.load_state_dict(self.state())
        self.method.to(self.world.device)
        if own := copied(self.module.rank_state()):
            self.method.load_rank_state(own)


def distribute(
    method: Method,
    world: World,
    strategy: Literal["ddp", "fsdp2"],
    *,
    compiled: bool,
    uneven: bool = False,
    dtype: torch.dtype | None = None,
) -> Replicated:
    """Put `method` under `strategy`; on one rank both leave it as it is.

    Where the steps are `uneven`, some of them reach parameters that others do not; `dtype` is that
    of autocast around them, if any.
    """
    if strategy == "fsdp2" and world.size > 1:
        return Sharded(method, world, compiled=compiled, dtype=dtype)
    return Replicated(method, world, compiled=compiled, uneven=uneven)


def agree(module: nn.Module) -> None:
    """Give every rank the weights of rank 0."""
    if dist.is_initialized():
        with torch.no_grad():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)
