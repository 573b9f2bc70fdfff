"""KDEP of a CIFAR ResNet-56 into a ResNet-8 and a small ViT on CIFAR-10-JPEG, its SVD against a
learned 1x1 convolution and against no pre-training. Finished steps are skipped, so the same command
goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/kdep_cifar10.py --data cifar10.tar.gz \\
        --teacher resnet56-4bfd9763.th --out runs/kdep_cifar10 [--only resnet8-svd]
"""

import argparse
from pathlib import Path
from typing import Any

from cifar_resnet import CifarResNet, resnet
from experiment import Arm, Experiment, listed, seeded, unpacked

from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

__all__ = ["CifarResNet", "pretraining", "resnet"]
VIEWS = 2
# Learning rate of the head and its decay per layer, without and with pre-training; of the ResNet
# chosen on a part of the training pictures.
FINETUNING = {"resnet8": ((1e-2, 0.2), (5e-3, 0.1)), "vit": ((1e-3, 1.0), (5e-4, 0.75))}


def pretraining(epochs: int, batch: int) -> dict[str, Any]:
    """Settings of KDEP on pictures of 32 pixels."""
    return {
        "data.image_size": 32,
        "data.crop_scale": [0.4, 1.0],
        "optim.optimizer": "adamw",
        "optim.betas": [0.9, 0.999],
        "optim.lr": 2e-3,
        "optim.warmup_epochs": epochs / 10,
        "train.epochs": epochs,
        "train.global_batch_size": batch,
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder or archive, train/ test/")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=56, help="of the teacher")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="arms to run; default: all")
    parser.add_argument("--measure", nargs="*", default=["probes", "finetune"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--per-class", type=int, default=2500, help="unlabelled pictures")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--tuning", type=int, default=3, help="epochs of fine-tuning")
    given = parser.parse_args(words)

    pictures = unpacked(given.data, given.out)
    experiment = Experiment(
        out=given.out,
        unlabelled=listed(pictures / "train", given.per_class, given.out / "unlabelled.txt"),
        train=str(pictures / "train"),
        test=str(pictures / "test"),
        seeds=given.seeds,
        measures=given.measure,
        probe_budgets=(0.01, 0.1),
        probes={"linear.min_steps": 300, "batch_size": 250},
    )
    students = {
        "resnet8": seeded(lambda: resnet(8)),
        "vit": seeded(
            lambda: create_backbone(
                "vit", image_size=32, patch_size=4, embed_dim=64, depth=6, num_heads=4
            )
        ),
    }
    settings = pretraining(given.epochs, given.batch) | {
        "train.evaluate_every": given.epochs,
        "cache.path": str(given.out / "teacher-features"),
        "cache.views": VIEWS,
    }
    # Both read the same feature, so that the alignment alone differs and one cache serves all.
    targets = {
        "svd": {"method.align": "svd"},
        "conv1x1": {"method.align": "conv1x1", "method.activation": "before"},
    }
    length = {"finetune.epochs": given.tuning, "finetune.min_steps": 40 * given.tuning}
    length |= {"finetune.crop_scale": [0.5, 1.0]}

    def teacher() -> Backbone:
        return resnet(given.layers, given.teacher)

    arms = [Arm("teacher", lambda seed: teacher())]
    for name, student in students.items():
        fresh, finetune = (
            length | {"finetune.lr": lr, "finetune.layer_decay": decay}
            for lr, decay in FINETUNING[name]
        )
        arms.append(Arm(f"{name}-scratch", student, finetune=fresh))
        for align, target in targets.items():
            taught = settings | target
            arms.append(Arm(f"{name}-{align}", student, "kdep", teacher, taught, finetune))
    for arm in arms:
        if given.only is None or arm.name in given.only:
            experiment.run(arm)
            print(experiment.table(arms, "student"), flush=True)


if __name__ == "__main__":
    main()
