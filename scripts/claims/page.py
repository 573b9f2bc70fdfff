"""`docs/evidence.md`, its numbers as JSON and a figure for each paper."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.claims.claim import Arm, Claim, difference, spread, verdict_of
from scripts.claims.sceptic import SCEPTIC
from scripts.claims.work import Place, cost

from vistill.files import write_atomic

_HEAD = """# Evidence

What the papers claim, tried on a scale that anyone can repeat: small pictures, narrow students,
one processor. Every arm of a claim is trained from {seeds} seeds, which draw its weights, the order
of its samples and the labels it is fine-tuned with; differences are those of the same seeds, with
Student's 95 % interval over them. A claim is **held** where every interval is above zero,
**reversed** where one is below, and else **not seen**, which is no refutation at this scale.
Written by

```sh
python -m scripts.claims --data DIR --budget {budget}
```

from runs that it makes where they are missing (`DIR` holds what `scripts/claims/tasks.py` names);
with `--judge` it trains nothing and writes this page again.
"""


def known(place: Place, arm: Arm, seeds: Sequence[int], measure: str) -> dict[int, float]:
    """What was measured of an arm so far, by seed."""
    found = {}
    for seed in seeds:
        file = place.folder(arm.plain(), seed) / f"{measure}.json"
        if file.exists():
            found[seed] = float(json.loads(file.read_text()))
    return found


def judged(claim: Claim, place: Place, seeds: Sequence[int]) -> dict[str, Any]:
    """Scores, differences and the verdict, as plain data."""
    scores = {arm.name: known(place, arm, seeds, claim.measure) for arm in claim.arms}
    pairs = [difference(claim, pair, scores) for pair in claim.compared()]
    return {
        "paper": claim.paper,
        "place": claim.place,
        "says": claim.says,
        "refuted": claim.refuted,
        "task": claim.task,
        "measure": claim.measure,
        "scores": scores,
        "cpu_seconds": {
            arm.name: [cost(place, arm, seed) for seed in scores[arm.name]] for arm in claim.arms
        },
        "differences": [None if pair is None else asdict(pair) for pair in pairs],
        "verdict": verdict_of(pairs),
    }


def write_page(
    claims: Mapping[str, Claim],
    place: Callable[[str], Place],
    seeds: Sequence[int],
    budget: str,
    folder: Path,
) -> None:
    """Write the page, the numbers and the figures of all that was measured so far."""
    told = {name: judged(claim, place(claim.task), seeds) for name, claim in claims.items()}
    rows = {
        task: {arm.name: known(place(task), arm, seeds, "finetune") for arm in arms}
        for task, arms in SCEPTIC.items()
    }
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    numbers = {"budget": budget, "claims": told, "sceptic": rows}
    write_atomic(results / "claims.json", json.dumps(numbers, indent=1) + "\n")
    write_atomic(folder / "evidence.md", page(numbers, len(seeds)))
    for paper in {one["paper"] for one in told.values()}:
        _figure(paper, told, results / f"claims_{paper.lower()}.svg")


def page(numbers: Mapping[str, Any], seeds: int) -> str:
    """Markdown of the numbers."""
    told = numbers["claims"]
    lines = [_HEAD.format(seeds=seeds, budget=numbers["budget"]), "## The claims", ""]
    lines += ["| paper | claim | verdict | by how much |", "|---|---|---|---|"]
    for one in told.values():
        gaps = "; ".join(
            f"{d['better']} - {d['worse']}: {d['mean']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]"
            for d in one["differences"]
            if d is not None
        )
        where = f"{one['paper']}, {one['place']}"
        lines.append(f"| {where} | {one['says']} | {one['verdict']} | {gaps or 'not run'} |")
    for paper in dict.fromkeys(one["paper"] for one in told.values()):
        lines += ["", f"## {paper}", "", f"![{paper}](results/claims_{paper.lower()}.svg)", ""]
        lines += ["| claim | arm | measured | score | CPU s |", "|---|---|---|---|---|"]
        for name, one in told.items():
            if one["paper"] != paper:
                continue
            for arm, scores in one["scores"].items():
                spent = one["cpu_seconds"][arm]
                mean = f"{sum(spent) / len(spent):.0f}" if spent else ""
                cell = spread({int(k): v for k, v in scores.items()})
                lines.append(f"| {name} | {arm} | {one['measure']} | {cell} | {mean} |")
        tasks = dict.fromkeys(one["task"] for one in told.values() if one["paper"] == paper)
        for task in tasks:
            for arm, scores in numbers["sceptic"][task].items():
                cell = spread({int(k): v for k, v in scores.items()})
                lines.append(f"| beside them, {task} | {arm} | finetune | {cell} | |")
    return "\n".join(lines) + "\n"


def _figure(paper: str, told: Mapping[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    gaps = [
        (f"{gap['better']} − {gap['worse']}", gap, one["measure"])
        for one in told.values()
        for gap in one["differences"]
        if one["paper"] == paper and gap is not None
    ]
    figure = Figure(figsize=(7, 1 + 0.3 * len(gaps)), layout="constrained")
    axes = figure.add_subplot()
    for row, (_, gap, _) in enumerate(reversed(gaps)):
        axes.plot([gap["low"], gap["high"]], [row, row], color="tab:blue", linewidth=1.5)
        axes.plot(gap["mean"], row, "o", color="tab:blue")
    axes.axvline(0, color="grey", linewidth=0.8)
    labels = [f"{name} ({measure})" for name, _, measure in reversed(gaps)]
    axes.set(yticks=range(len(gaps)), yticklabels=labels, xlabel="difference, 95 % interval")
    axes.tick_params(labelsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
