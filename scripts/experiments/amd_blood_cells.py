"""AMD against VideoMAE at equal steps, and asymmetric against symmetric masks, on the clips of
`vistill demo --video` and with its teacher. Finished steps are skipped.

    OMP_NUM_THREADS=1 python scripts/experiments/amd_blood_cells.py --out runs/amd_blood_cells
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import vistill
from vistill.files import write_atomic
from vistill.runs.demo.clips import TEACHER, comparison, film
from vistill.runs.results import PretrainResult

DECODER = {"embed_dim": 64, "depth": 2, "num_heads": 2}
PAINTED = {"norm_pixels": False, "decoder": DECODER}
ALIGNED: dict[str, Any] = {"teacher.model": f"run:{TEACHER}", "method.target_norm": "layer_norm"}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "videomae": (
        "videomae",
        {"method.mask_ratio": 0.75, **{f"method.{k}": v for k, v in PAINTED.items()}},
    ),
    "amd, .75 / .50": (
        "amd",
        ALIGNED
        | {
            "method.student_mask_ratio": 0.75,
            "method.teacher_mask_ratio": 0.5,
            "method.reconstruction": PAINTED,
        },
    ),
    "amd, symmetric .75 / .75": (
        "amd",
        ALIGNED
        | {
            "method.student_mask_ratio": 0.75,
            "method.teacher_mask_ratio": 0.75,
            "method.reconstruction": PAINTED,
        },
    ),
    "amd, direct only, .75 / .50": (
        "amd",
        ALIGNED
        | {
            "method.student_mask_ratio": 0.75,
            "method.teacher_mask_ratio": 0.5,
            "method.generation.weight": 0.0,
            "method.reconstruction.weight": 0.0,
        },
    ),
    "amd, direct only, .25 / 0": (
        "amd",
        ALIGNED
        | {
            "method.student_mask_ratio": 0.25,
            "method.teacher_mask_ratio": 0.0,
            "method.generation.weight": 0.0,
            "method.reconstruction.weight": 0.0,
        },
    ),
}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--epochs", type=int, default=6, help="of 98 steps of 16 clips, 4 views each"
    )
    parser.add_argument("--only", nargs="*", help="rows to run; default: all")
    given = parser.parse_args(words)
    film(given.out / "clips")
    demo, table = comparison(given.out), {}
    rows: dict[str, tuple[str | None, dict[str, Any]]] = {**ROWS, "not pre-trained": (None, {})}
    for name, (method, settings) in rows.items():
        scores = given.out / f"{name.replace(' / ', '-').replace(', ', '-').replace(' ', '_')}.json"
        if (given.only is None or name in given.only) and not scores.exists():
            run, start = given.out / scores.stem, time.process_time()
            if method is not None:
                done = vistill.pretrain(
                    method,
                    data=demo.unlabelled,
                    out=run,
                    overrides={
                        **demo.student,
                        **settings,
                        "train.epochs": given.epochs,
                        "optim.warmup_epochs": 0.5,
                        "data.workers": 0,
                    },
                )
                assert isinstance(done, PretrainResult)
            seconds = time.process_time() - start
            measured = vistill.evaluate(
                run if method else given.out / "videomae",
                data=demo.train,
                test=demo.test,
                protocols=("linear",),
                labels=(demo.labels, 1.0),
                seeds=demo.seeds,
                random_init=method is None,
                overrides={"workers": 0, "device": "cpu"},
            )
            summaries = [vars(summary) for summary in measured.summaries]
            text = json.dumps({"cpu_seconds": seconds, "summaries": summaries}, default=str)
            write_atomic(scores, text + "\n")
        if scores.exists():
            table[name] = json.loads(scores.read_text())
    lines = [
        "| student | 30 labels a class | all 400 labels | pre-training: CPU s |",
        "|---|---|---|---|",
    ]
    for name, row in table.items():
        cells = [
            f"{100 * s['top1']:.1f} [{100 * s['low']:.1f}, {100 * s['high']:.1f}]"
            for s in row["summaries"]
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['cpu_seconds']:.0f} |")
    write_atomic(given.out / "table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
