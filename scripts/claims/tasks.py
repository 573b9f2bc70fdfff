"""What the claims are tried on: data, teachers, students and settings by budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.experiments.cifar_resnet import resnet
from scripts.experiments.experiment import linked, seeded, unpacked

from vistill.errors import UserError
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

Built = Callable[[int], Backbone]


@dataclass(frozen=True)
class Budget:
    """How much is spent on an arm and seed.

    Attributes:
        unlabelled: samples of each class to pre-train on.
        epochs: passes over them.
        labels: of each class to fine-tune on.
        tuning: passes over these.
        tested: samples of each class to test on.
        device: of pre-training and measuring.
    """

    unlabelled: int
    epochs: int
    labels: int
    tuning: int
    tested: int
    device: str = "cpu"


BUDGETS: Mapping[str, Mapping[str, Budget]] = {
    "tiny": {"pictures": Budget(6, 1, 2, 1, 3), "cifar": Budget(6, 1, 2, 1, 3),
             "clips": Budget(4, 1, 2, 1, 2)},
    "small": {"pictures": Budget(200, 10, 20, 30, 60), "cifar": Budget(300, 10, 50, 12, 200),
              "clips": Budget(120, 10, 40, 20, 60)},
    "medium": {"pictures": Budget(900, 30, 50, 50, 300), "cifar": Budget(2500, 20, 100, 30, 1000),
               "clips": Budget(280, 60, 140, 40, 120)},
    "gpu": {"pictures": Budget(900, 300, 50, 100, 300, "cuda"),
            "cifar": Budget(5000, 100, 100, 100, 1000, "cuda"),
            "clips": Budget(280, 400, 140, 100, 120, "cuda")},
}  # fmt: skip
"""By name and task; `tiny` only tries the scripts."""


@dataclass(frozen=True)
class Task:
    """Data, and what learns and teaches on it.

    Attributes:
        archive: under the data folder, with `train/CLASS/` and another part with classes.
        test: name of that part.
        settings: of pre-training.
        measuring: of fine-tuning and probes.
        students: by name, built with the weights of a seed.
        teachers: by name, from the data folder.
    """

    archive: str
    test: str
    settings: Mapping[str, Any]
    measuring: Mapping[str, Any]
    students: Mapping[str, Built]
    teachers: Mapping[str, Callable[[Path], Backbone | str]] = field(default_factory=dict)

    def parts(self, data: Path, out: Path, budget: Budget) -> tuple[Path, Path]:
        """Folders of the samples to learn from and to test on.

        Raises:
            UserError: the archive is not there.
        """
        archive = data / self.archive
        if not archive.exists():
            raise UserError(f"{archive} is not there; --data is the folder that holds it")
        place = out / archive.parent.name
        place.mkdir(parents=True, exist_ok=True)
        whole, few = unpacked(archive, place), place / f"few-{budget.unlabelled}-{budget.tested}"
        train = linked(whole / "train", budget.unlabelled, few / "train")
        return train, linked(whole / self.test, budget.tested, few / self.test)


def vit(size: int, patch: int, width: int, depth: int, **more: Any) -> Built:
    """A plain ViT with heads of 32 channels."""
    sizes = {"image_size": size, "patch_size": patch, "embed_dim": width, "depth": depth}
    return seeded(lambda: create_backbone("vit", num_heads=width // 32, **sizes, **more))


_RUN = {"data.workers": 0, "train.loggers": [], "train.knn_probe": False, "train.precision": "fp32",
        "optim.betas": [0.9, 0.95], "optim.warmup_epochs": 1.0}  # fmt: skip
_DEIT = "deit_tiny/deit_tiny_patch16_224.safetensors"

TASKS: Mapping[str, Task] = {
    "pictures": Task(
        "imagenette128/imagenette128.zip",
        "val",
        _RUN
        | {"data.image_size": 64, "data.crop_scale": [0.3, 1.0], "train.global_batch_size": 64,
           "optim.lr": 1e-3, "teacher.image_size": 64},
        {"finetune.lrs": [3e-4, 1e-3], "finetune.crop_scale": [0.3, 1.0],
         "finetune.label_smoothing": 0.1},
        {"student": vit(64, 16, 96, 6), "smaller": vit(64, 16, 64, 6),
         "middle": vit(64, 16, 128, 8), "like its teacher": vit(64, 16, 192, 12),
         "layer": vit(64, 16, 96, 6, relative_position="layer"),
         "shared": vit(64, 16, 96, 6, relative_position="shared")},
        {"deit": lambda data: f"file:{data / _DEIT}",
         "deit with its classifier": lambda data: f"file:{data / _DEIT},classifier=keep"},
    ),
    "cifar": Task(
        "cifar10/cifar10.tar.gz",
        "test",
        _RUN
        | {"data.image_size": 32, "data.crop_scale": [0.4, 1.0], "train.global_batch_size": 64,
           "optim.lr": 2e-3, "optim.betas": [0.9, 0.999]},
        {"finetune.lrs": [1e-3, 5e-3], "finetune.layer_decay": 0.5,
         "finetune.crop_scale": [0.5, 1.0]},
        {"student": seeded(lambda: resnet(8, widths=(8, 16, 32))),
         "as wide": seeded(lambda: resnet(8))},
        {str(n): lambda data, n=n, f=f: resnet(n, data / "cifar10_teachers" / f)
         for n, f in ((20, "resnet20-12fca82f.th"), (32, "resnet32-d509ac18.th"),
                      (44, "resnet44-014dd654.th"), (56, "resnet56-4bfd9763.th"))},
    ),
    "clips": Task(
        "sprite_actions/sprite_actions.zip",
        "test",
        _RUN
        | {"data.image_size": 48, "data.frames": 8, "data.stride": 2, "train.global_batch_size": 32,
           "optim.lr": 1e-3, "data.flip": 0.0},
        {"finetune.lrs": [3e-4, 1e-3], "finetune.flip": 0.0},
        {"student": vit(48, 8, 96, 4, num_frames=8, tubelet_size=2),
         "wide": vit(48, 8, 192, 6, num_frames=8, tubelet_size=2),
         "frame by frame": vit(48, 8, 96, 4, num_frames=8, tubelet_size=1)},
        {"deit": lambda data: f"file:{data / _DEIT}"},
    ),
}  # fmt: skip
