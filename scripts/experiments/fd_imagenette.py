"""Feature distillation of an ImageNet MobileNetV2 into a small ViT on Imagenette, against MAE and
against no pre-training. Finished steps are skipped, so the same command goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/fd_imagenette.py --data imagenette128.zip \\
        --teacher mobilenet_v2_1.0_224_fp16.safetensors --out runs/fd_imagenette [--only fd]
"""

import argparse
from pathlib import Path

import timm
from experiment import Arm, Experiment, listed, seeded, unpacked
from safetensors.torch import load_file

from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Backbone, Normalization
from vistill.models.build import create_backbone


def mobilenet_v2(file: Path, image_size: int) -> Backbone:
    """TensorFlow's MobileNetV2 under timm's names: its padding and its pixel range."""
    module = timm.create_model("mobilenetv2_100", pad_type="same")
    module.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    return PooledBackbone(
        module.eval(),
        image_size=image_size,
        normalization=Normalization((127 / 255,) * 3, (0.5,) * 3),
        origin=f"file {file.name}",
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder or archive, train/ val/")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="arms to run; default: all")
    parser.add_argument("--measure", nargs="*", default=["probes", "finetune"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tuning", type=int, default=10, help="epochs of fine-tuning")
    given = parser.parse_args(words)

    size = given.image_size
    pictures = unpacked(given.data, given.out)
    experiment = Experiment(
        out=given.out,
        unlabelled=listed(pictures / "train", None, given.out / "unlabelled.txt"),
        train=str(pictures / "train"),
        test=str(next(p for p in (pictures / "val", pictures / "test") if p.is_dir())),
        seeds=given.seeds,
        measures=given.measure,
        probes={"linear.min_steps": 300},
    )
    student = seeded(
        lambda: create_backbone(
            "vit",
            image_size=size,
            patch_size=16,
            embed_dim=192,
            depth=4,
            num_heads=3,
            relative_position="shared",
        )
    )
    settings = {
        "data.image_size": size,
        "data.crop_scale": [0.25, 1.0],
        "optim.lr": 1e-3,
        "optim.betas": [0.9, 0.999],
        "optim.warmup_epochs": min(1, given.epochs / 5),
        "train.epochs": given.epochs,
        "train.global_batch_size": given.batch,
        "train.evaluate_every": given.epochs,
    }
    fresh = {
        "finetune.epochs": given.tuning,
        "finetune.min_steps": 12 * given.tuning,
        "finetune.global_batch_size": 32,
        "finetune.precision": "bf16",
        "finetune.layer_decay": 1.0,
    }
    # Gentler where there is something to keep: chosen on a part of the training pictures.
    finetune = fresh | {"finetune.lr": 3e-4, "finetune.layer_decay": 0.75}
    arms = [
        Arm("teacher", lambda seed: mobilenet_v2(given.teacher, size)),
        Arm("scratch", student, finetune=fresh),
        Arm(
            "fd",
            student,
            method="feature_distillation",
            teacher=lambda: mobilenet_v2(given.teacher, size),
            settings=settings | {"method.resize_map": True, "method.target": "patches"},
            finetune=finetune,
        ),
        Arm(
            "mae",
            student,
            method="mae",
            settings=settings
            | {"method.decoder.embed_dim": 96, "method.decoder.depth": 2}
            | {"method.decoder.num_heads": 3},
            finetune=finetune,
        ),
    ]
    for arm in arms:
        if given.only is None or arm.name in given.only:
            experiment.run(arm)
            print(experiment.table(arms, "student"), flush=True)


if __name__ == "__main__":
    main()
