"""A TinyMIM step by the types of student and teacher, against the published step in fp32.

`published` is `plain` of `tinymim_step.py` (its teacher stops at its block, as the authors'
does), with the fused optimiser that vistill has. The other sides are the training loop's own step:
`autocast` is bf16 with a teacher whose weights are cast at every step, `bf16` keeps them so, and
the rest have teachers of another type than their student. All sides hold the same weights and see
the same pictures; they take turns.

    python benchmarks/precision_step.py [--student vit_small] [--teacher vit_base] [--batch 8]
        [--rounds 7] [--clock cpu]
    ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI python benchmarks/precision_step.py ...   # no bf16, no AMX
"""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack

import torch
from common import (
    describe,
    machine,
    make_learner,
    parser,
    random_batch,
    seconds_in_turn,
    spread,
    tinymim,
)
from tinymim_step import LR, Plain

from vistill.batch import Batch
from vistill.config.schema import OptimConfig
from vistill.models.precision import keep_weights, run_in
from vistill.training.optim import pretrain_groups

SIDES = {  # type of the student, of the teacher, whether its weights are kept in it
    "fp32": ("fp32", None, False),
    "fp32, int8 teacher": ("fp32", "int8", True),
    "autocast": ("bf16", None, False),
    "bf16": ("bf16", "bf16", True),
    "bf16, int8 teacher": ("bf16", "int8", True),
}


def main() -> None:
    arguments = parser(__doc__, batch=8, rounds=7)
    options = arguments.parse_args()
    losses, weights = {}, {}

    with ExitStack() as cleanup:
        steps: dict[str, Callable[[Batch], object]] = {"published": _published(options)}
        for name, (student, teacher, kept) in SIDES.items():
            method = tinymim(options)
            if teacher is not None:
                cleanup.callback(run_in(method.teacher, teacher, student))
            if kept:
                keep_weights(method.teacher)
            options.precision = student
            weights[name] = sum(p.nbytes for p in method.teacher.parameters()) / 1e6
            with torch.autocast("cpu", torch.bfloat16, enabled=student == "bf16"):
                losses[name] = method(random_batch(options, 0)).total.item()
            learner = make_learner(options, method, cleanup)

            def ours(batch: Batch, learner=learner) -> None:
                learner.accumulate(batch, 1, last=True)
                learner.update(LR)

            steps[name] = ours
        seconds = seconds_in_turn(steps, options)
    options.precision = "as each side says"
    report = {
        **describe(options, method),
        "isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the machine has"),
        "seconds": {side: spread(found) for side, found in seconds.items()},
        "time_of_published": {
            side: spread(a / b for a, b in zip(seconds[side], seconds["published"], strict=True))
            for side in SIDES
        },
        "loss_off_fp32": {side: f"{abs(x / losses['fp32'] - 1):.1e}" for side, x in losses.items()},
        "teacher_mb": {side: round(found, 1) for side, found in weights.items()},
        "machine": machine("cpu"),
    }
    print(json.dumps(report, indent=2))


def _published(options) -> Callable[[Batch], object]:
    plain, optim = Plain(tinymim(options)), OptimConfig()
    groups = pretrain_groups(plain.student, optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=optim.betas, fused=True)

    def step(batch: Batch) -> None:
        plain.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
