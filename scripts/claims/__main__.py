"""Try the claims: train what is missing, judge what there is.

    OMP_NUM_THREADS=1 python -m scripts.claims --data DIR --budget small [--only tinymim] [--jobs 2]

`DIR` holds the archives and teachers that `tasks.py` names. Everything that is done is kept under
`--out` and skipped the next time; results go to `docs/results/claims.json` and `docs/evidence.md`.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path
from typing import Any

from scripts.claims.claim import Arm, Claim
from scripts.claims.page import write_page
from scripts.claims.sceptic import SCEPTIC
from scripts.claims.tasks import BUDGETS
from scripts.claims.work import Place, ready, score, teach

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs"
Job = tuple[str, Arm, int, str]
"""Task, arm, seed and measure."""


def claims(only: Sequence[str] = ()) -> dict[str, Claim]:
    """All claims by the name of their file, or those whose name begins so."""
    files = sorted(
        path.relative_to(HERE) for path in HERE.glob("*/*.py") if path.stem != "__init__"
    )
    names = [".".join(file.with_suffix("").parts) for file in files]
    chosen = [name for name in names if not only or any(name.startswith(word) for word in only)]
    return {name: import_module(f"scripts.claims.{name}").CLAIM for name in chosen}


def jobs_of(found: dict[str, Claim], seeds: Sequence[int], rows: bool) -> list[Job]:
    """Every arm, seed and measure once, one seed of everything before the next."""
    asked: dict[Any, Job] = {}
    for seed in seeds:
        for claim in found.values():
            wanted = [(arm, claim.measure) for arm in claim.arms]
            if rows:
                wanted += [(arm, "finetune") for arm in SCEPTIC[claim.task]]
            for arm, measure in wanted:
                key = (claim.task, str(arm.plain()), seed, measure)
                asked.setdefault(key, (claim.task, arm, seed, measure))
    return list(asked.values())


def teachers_of(jobs: Sequence[Job]) -> list[tuple[str, Arm]]:
    """Arms that teach others, the first taught first."""
    found: dict[str, tuple[str, Arm]] = {}

    def visit(task: str, arm: Arm) -> None:
        if isinstance(arm.teacher, Arm):
            visit(task, arm.teacher)
            found.setdefault(task + str(arm.teacher.plain()), (task, arm.teacher))

    for task, arm, _, _ in jobs:
        visit(task, arm)
    return list(found.values())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", choices=list(BUDGETS), default="small")
    parser.add_argument("--only", nargs="*", default=[], help="names, or how they begin")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="arms at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of evidence.md")
    parser.add_argument("--judge", action="store_true", help="train nothing, only write the page")
    given = parser.parse_args(words)

    found = claims(given.only)
    jobs = jobs_of(found, given.seeds, rows=True)
    failed = 0

    def place(task: str) -> Place:
        return Place(given.data, given.out, task, given.budget)

    if not given.judge:
        for task in {job[0] for job in jobs}:
            place(task).parts()  # before several processes want them
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.jobs, mp_context=context, initializer=ready) as pool:
            for task, arm in teachers_of(jobs):
                pool.submit(teach, place(task), arm).result()
            running = {
                pool.submit(score, place(task), arm, seed, measure): (arm.name, seed, measure)
                for task, arm, seed, measure in jobs
            }
            for done in as_completed(running):
                name, seed, measure = running[done]
                if (error := done.exception()) is not None:
                    failed += 1
                    print(f"{name}, seed {seed}: {error}", file=sys.stderr, flush=True)
                else:
                    told = f"{name}, seed {seed}: {measure} {done.result():.4g}"
                    print(f"[{len(running)}] {told}", flush=True)
    write_page(claims(), place, given.seeds, given.budget, given.results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
