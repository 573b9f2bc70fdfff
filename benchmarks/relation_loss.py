"""TinyMIM's relation loss alone (QK and VV), forward and backward: vistill against plain autograd.

Plain: softmax tensors of both sides and the KL against the logarithm of the student's. Memory that
the graph keeps between forward and backward is counted from the tensors autograd saves; the peak is
measured in a process of its own for each side and batch.

    python benchmarks/relation_loss.py [--batches 8 16 32 64 128] [--rounds 7] [--device cpu]
        [--clock wall]
"""

import argparse
import json
from collections.abc import Callable

import torch
from common import (
    CLOCKS,
    PeakMemory,
    clock_option,
    in_own_process,
    interleaved,
    machine,
    spread,
    synchronize,
)
from plain_tinymim import relation_kl
from torch import Tensor

from vistill.losses.relation import relation_loss

TOKENS, HEADS, STUDENT_WIDTH, TEACHER_WIDTH = 197, 12, 384, 768
RTOL = 1e-4


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    def softmaxed(qkv: Tensor) -> list[Tensor]:
        q, k, v = qkv.unflatten(3, (HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        scale = q.shape[-1] ** -0.5
        return [(a @ b.transpose(-2, -1) * scale).softmax(dim=-1) for a, b in ((q, k), (v, v))]

    with torch.no_grad():
        targets = softmaxed(teacher)
    pairs = zip(softmaxed(student), targets, strict=True)
    return sum(relation_kl(s, t) for s, t in pairs)


def vistill(student: Tensor, teacher: Tensor) -> Tensor:
    (q, k, v), (tq, tk, tv) = student.unbind(2), teacher.unbind(2)
    return relation_loss((q, k), (tq, tk), HEADS) + relation_loss((v, v), (tv, tv), HEADS)


SIDES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"plain": plain, "vistill": vistill}


def factors(batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Queries, keys and values `[B, N, 3, D]` of student and teacher."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(batch, TOKENS, 3, width, generator=generator).to(device)
        for width in (STUDENT_WIDTH, TEACHER_WIDTH)
    )
    return student.requires_grad_(), teacher


def kept_bytes(side: str, batch: int, device: str) -> int:
    """Bytes of distinct storages that the graph keeps, the student's factors included."""
    student, teacher = factors(batch, device)
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = SIDES[side](student, teacher)
    loss.backward()
    return sum(found.values())


def peak_bytes(side: str, batch: int, device: str) -> int:
    """Most bytes in use in forward and backward besides the factors, their gradient included."""
    student, teacher = factors(batch, device)
    SIDES[side](student[:1], teacher[:1]).backward()  # libraries' own first allocations
    student.grad = None
    memory = PeakMemory(device)
    SIDES[side](student, teacher).backward()
    synchronize(device)
    return memory.growth()


def check(device: str) -> None:
    """Raise an AssertionError if the two sides differ."""
    (student, teacher), gradients = factors(3, device), []
    for loss in SIDES.values():
        gradients.append(torch.autograd.grad(loss(student, teacher), student)[0])
    assert (gradients[0] - gradients[1]).norm() < RTOL * gradients[0].norm()


def measure_time(
    batch: int, rounds: int, device: str, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of forward and backward by side and round."""
    student, teacher = factors(batch, device)

    def once(loss: Callable[[Tensor, Tensor], Tensor], _: int) -> float:
        student.grad = None
        synchronize(device)
        start = clock()
        loss(student, teacher).backward()
        synchronize(device)
        return clock() - start

    return interleaved(SIDES, rounds, once)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    clock_option(parser)
    parser.add_argument("--peak-of", nargs=2, help="measure only SIDE BATCH, in this process")
    options = parser.parse_args()
    device = options.device
    if options.peak_of:
        side, batch = options.peak_of
        print(peak_bytes(side, int(batch), device))
        return
    check(device)
    rows = []
    for batch in options.batches:
        peak = {side: in_own_process("--peak-of", side, str(batch)) for side in SIDES}
        kept = {side: kept_bytes(side, batch, device) for side in SIDES}
        seconds = measure_time(batch, options.rounds, device, CLOCKS[options.clock])
        ratios = [a / b for a, b in zip(seconds["plain"], seconds["vistill"], strict=True)]
        row = {
            "batch": batch,
            "kept_mb": {side: round(found / 1e6, 1) for side, found in kept.items()},
            "kept_over_vistill": round(kept["plain"] / kept["vistill"], 1),
            "peak_mb": {side: round(found / 1e6, 1) for side, found in peak.items()},
            "peak_over_vistill": round(peak["plain"] / peak["vistill"], 1),
            "milliseconds": {
                side: spread((1e3 * s for s in found), 1) for side, found in seconds.items()
            },
            "time_over_vistill": spread(ratios, 2),
        }
        rows.append(row)
    report = {
        "shape": f"{TOKENS} tokens, {HEADS} heads, {STUDENT_WIDTH} and {TEACHER_WIDTH} wide, fp32",
        "rounds": options.rounds,
        "clock": options.clock,
        "rows": rows,
        "machine": machine(device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
