"""Whether the figures of `vistill rank-teachers` order the students: a CIFAR ResNet-8 is taught by
KDEP from each of several teachers, real ones and ones with noise on their weights, and its linear
probe is held against the teachers' figures. Finished steps are skipped.

    OMP_NUM_THREADS=1 python scripts/experiments/teacher_ranking.py --data cifar10.tar.gz \\
        --teachers cifar10_teachers --out runs/teacher_ranking
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from experiment import MEASURE, Arm, Experiment, listed, seeded, unpacked
from kdep_cifar10 import pretraining, resnet

import vistill
from vistill.analysis.landscape import gaussian, moved, scaled
from vistill.models.backbone import Backbone

REAL = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th",
        44: "resnet44-014dd654.th", 56: "resnet56-4bfd9763.th"}  # fmt: skip
FIGURES = ("knn", "compactness", "effective_rank", "std_ratio", "svd_std_ratio", "cos_gap")


def teacher(folder: Path, layers: int, noise: float) -> Backbone:
    """A real ResNet, with Gaussian noise of so many lengths of its filters."""
    found = resnet(layers, folder / REAL[layers])
    if noise:
        direction = scaled(found, gaussian(found, 0))
        with moved(found, [(noise, direction)]):
            state = {name: value.clone() for name, value in found.state_dict().items()}
        found.load_state_dict(state)
    found.origin, found.untrained = f"resnet{layers}-{noise:g}", False
    return found


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Place of each value, the smallest 0; equal ones share the mean of theirs."""
    below = (values[:, None] > values[None]).sum(dim=1)
    same = (values[:, None] == values[None]).sum(dim=1)
    return below + (same - 1) / 2


def correlation(one: list[float], other: list[float]) -> float:
    """Spearman's."""
    return float(torch.corrcoef(torch.stack([ranks(torch.tensor(v)) for v in (one, other)]))[0, 1])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder or archive, train/ test/")
    parser.add_argument("--teachers", type=Path, required=True, help="folder of the ResNets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="*", default=list(REAL))
    parser.add_argument("--noise", type=float, nargs="*", default=[0.1, 0.2, 0.4])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of pre-training")
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args(words)

    pictures = unpacked(given.data, given.out)
    unlabelled = listed(pictures / "train", given.per_class, given.out / "unlabelled.txt")
    experiment = Experiment(
        out=given.out,
        unlabelled=unlabelled,
        train=str(pictures / "train"),
        test=str(pictures / "test"),
        seeds=(0,),
        measures=("probes",),
        probe_budgets=(0.1,),
        probes={"linear.min_steps": 300, "batch_size": 250},
    )
    settings = pretraining(given.epochs, given.batch) | {"train.knn_probe": False}
    kinds = [(layers, 0.0) for layers in given.layers]
    kinds += [(given.layers[-1], noise) for noise in given.noise]
    makers = {f"resnet{n}-{noise:g}": partial(teacher, given.teachers, n, noise)
              for n, noise in kinds}  # fmt: skip

    file = given.out / "ranking.json"
    if not file.exists():
        found = vistill.rank_teachers(
            *(make() for make in makers.values()), data=str(pictures / "test"),
            overrides=MEASURE | {"student_width": 64, "pictures": 1000},
        )  # fmt: skip
        file.write_text(found.to_json())
    figures = json.loads(file.read_text())["scores"]
    table: dict[str, Any] = {
        name: {"figures": own, "students": []} for name, own in zip(makers, figures, strict=True)
    }
    for seed in given.seeds:
        for name, make in makers.items():
            arm = Arm(f"{name}-seed{seed}", lambda _, seed=seed: seeded(lambda: resnet(8))(seed),
                      "kdep", make, settings | {"seed": seed})  # fmt: skip
            replace(experiment, seeds=(seed,)).run(arm)
            told = json.loads((given.out / arm.name / "probes.json").read_text())["scores"]
            (score,) = (one["top1"] for one in told if one["protocol"] == "linear")
            table[name]["students"].append(score)
        summary = {"teachers": table, "rank_correlation": correlations(table)}
        (given.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        print(json.dumps(summary["rank_correlation"], indent=1), flush=True)


def correlations(table: dict[str, Any]) -> dict[str, float]:
    """Spearman's between each figure and the students' mean accuracy."""
    students = [sum(one["students"]) / len(one["students"]) for one in table.values()]
    return {
        figure: correlation([one["figures"][figure] for one in table.values()], students)
        for figure in FIGURES
    }


if __name__ == "__main__":
    main()
