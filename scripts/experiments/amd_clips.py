"""AMD against VideoMAE on clips: a VideoMAE teacher and small students, pre-trained on rendered
motion and on surveillance clips without labels, measured on both. Finished steps are skipped, so
the same command goes on where it stopped.

    OMP_NUM_THREADS=1 python scripts/experiments/amd_clips.py --pictures imagenette128.zip \\
        --fights fight_clips.zip --out runs/amd_clips [--only teacher amd]
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiment import Arm, Experiment, seeded, unpacked

from vistill.data import open_source
from vistill.data.motion_clips import write_motion_clips, write_video
from vistill.data.video.reader import VideoReader
from vistill.data.video.transforms import resize_clip
from vistill.models.backbone import Backbone
from vistill.models.build import create_backbone

FRAMES, STRIDE, SIDE = 8, 2, 48
TASKS = ("motion", "fight")


def motion_lists(pictures: Path, out: Path, counts: dict[str, tuple[int, int]]) -> None:
    """Render clips of both parts' pictures; list all of them, and with labels the first of them.

    Args:
        pictures: folder with `train/` and `val/` or `test/`.
        out: where to write.
        counts: by part how many to render, and how many to list with labels.
    """
    for seed, (part, (count, labelled)) in enumerate(counts.items()):
        where = out / "motion" / part
        folder = next(p for p in (pictures / part, pictures / "val") if p.is_dir())
        write_motion_clips(
            open_source(str(folder)),
            where,
            count=count,
            frames=FRAMES * STRIDE,
            size=SIDE,
            seed=seed,
        )
        files = sorted(where.absolute().glob("*/*.mp4"), key=lambda file: file.name)[:count]
        write_list(out / f"motion-{part}.txt", [(str(f), f.parent.name) for f in files[:labelled]])
        write_list(out / f"motion-{part}-all.txt", [(str(f),) for f in files])


def fight_lists(fights: Path, out: Path) -> None:
    """The split of `index.csv`, in which no camera is in both parts; frames are made small."""
    with open(fights / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for part in ("train", "test"):
        named = []
        for row in (row for row in rows if row["split"] == part):
            clip = (out / "fight" / row["file"]).absolute()
            clip.parent.mkdir(parents=True, exist_ok=True)
            if not clip.exists():
                with VideoReader(str(fights / row["file"])) as video:
                    frames = video.read(range(video.num_frames))
                scale = SIDE / min(frames.shape[2:])
                height, width = (2 * round(n * scale / 2) for n in frames.shape[2:])
                write_video(clip, resize_clip(frames, height, width).permute(1, 2, 3, 0))
            named.append((str(clip), row["label"]))
        write_list(out / f"fight-{part}.txt", named)
        write_list(out / f"fight-{part}-all.txt", [(name,) for name, _ in named])


def write_list(file: Path, rows: Sequence[tuple[str, ...]]) -> None:
    """One line per row, words apart."""
    file.write_text("".join(" ".join(row) + "\n" for row in rows))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pictures", type=Path, required=True, help="folder or archive, train/ test/"
    )
    parser.add_argument("--fights", type=Path, required=True, help="folder or archive, index.csv")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="arms to run; default: all")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=TASKS)
    parser.add_argument("--measures", nargs="*", default=["probes", "finetune"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=4000, help="rendered for pre-training")
    parser.add_argument("--labelled", type=int, default=1600, help="of these, with their label")
    parser.add_argument("--tests", type=int, default=800, help="rendered of val pictures")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument(
        "--width", type=int, default=64, help="of the students; the teacher: double"
    )
    parser.add_argument("--mask", choices=["tube", "random"], default="random")
    parser.add_argument("--norm-pixels", action="store_true")
    parser.add_argument("--teacher-mask", type=float, default=0.75, help="share hidden in its run")
    parser.add_argument("--teacher-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2, help="of the students")
    parser.add_argument("--videos", type=int, default=8, help="per step, each in four crops")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--target-norm", choices=["layer_norm", "none"], default="layer_norm")
    parser.add_argument("--clip-norm", type=float, default=0.02, help="of AMD")
    parser.add_argument("--steps", type=int, default=600, help="of fine-tuning")
    given = parser.parse_args(words)

    given.out.mkdir(parents=True, exist_ok=True)
    fight_lists(unpacked(given.fights, given.out / "fights"), given.out)
    pictures = unpacked(given.pictures, given.out / "pictures")
    counts = {"train": (given.clips, given.labelled), "test": (given.tests, given.tests)}
    motion_lists(pictures, given.out, counts)
    unlabelled = given.out / "unlabelled.txt"
    parts = [given.out / f"{part}-train-all.txt" for part in ("motion", "fight")]
    unlabelled.write_text("".join(part.read_text() for part in parts))
    reading = {"stride": STRIDE, "sampling": "dense"}
    motion = Experiment(
        out=given.out,
        unlabelled=str(unlabelled),
        train=str(given.out / "motion-train.txt"),
        test=str(given.out / "motion-test.txt"),
        seeds=given.seeds,
        budgets=(1.0,),
        probe_budgets=(1.0,),
        probes=reading | {"linear.min_steps": 300},
        measures=given.measures,
        task="motion-",
    )
    fight = replace(
        motion,
        train=str(given.out / "fight-train.txt"),
        test=str(given.out / "fight-test.txt"),
        task="fight-",
    )

    def vit(width: int) -> Callable[[int], Backbone]:
        return seeded(
            lambda: create_backbone(
                "vit",
                image_size=given.image_size,
                patch_size=given.patch_size,
                embed_dim=width,
                depth=6,
                num_heads=width // 32,
                num_frames=FRAMES,
            )
        )

    def painting(prefix: str) -> dict[str, Any]:
        decoder = {"embed_dim": 64, "depth": 2, "num_heads": 2}
        sizes = {f"{prefix}decoder.{name}": value for name, value in decoder.items()}
        return sizes | {f"{prefix}norm_pixels": given.norm_pixels}

    settings = {
        "data.image_size": given.image_size,
        "data.frames": FRAMES,
        "data.stride": STRIDE,
        "data.repeats": 4,
        "method.mask": given.mask,
        "optim.lr": given.lr,
        "optim.warmup_epochs": 0.5,
        "train.epochs": given.epochs,
        "train.global_batch_size": given.videos,
        "train.precision": "bf16",
    }
    alone = settings | painting("method.") | {"method.mask_ratio": 0.9}
    taught = settings | painting("method.reconstruction.")
    taught |= {
        "method.generation.depth": 1,
        "method.target_norm": given.target_norm,
        "optim.clip_norm": given.clip_norm,
    }
    tuning = reading | {
        "clips": 1,
        "crops": 1,
        "finetune.epochs": 1,
        "finetune.min_steps": given.steps,
        "finetune.global_batch_size": 32,
        "finetune.micro_batch_size": 32,
        "finetune.drop_path": 0.0,
        "finetune.lr": 2e-3,
        "finetune.layer_decay": 1.0,
        "finetune.flip": 0.0,
        "finetune.crop_scale": [0.98, 1.0],
        "finetune.precision": "bf16",
    }
    longer = {"train.epochs": given.teacher_epochs, "method.mask_ratio": given.teacher_mask}
    teacher = Arm("teacher", vit(2 * given.width), "videomae", settings=alone | longer)

    def arm(name: str, method: str | None, **settings: Any) -> Arm:
        taught_by = partial(motion.backbone, teacher, 0) if method == "amd" else None
        return Arm(name, vit(given.width), method, taught_by, settings, tuning)

    arms = [
        teacher,
        arm("scratch", None),
        arm("videomae", "videomae", **alone),
        arm("amd", "amd", **taught),
        arm("amd-symmetric", "amd", **taught, **{"method.teacher_mask_ratio": 0.9}),
    ]

    def run(arm: Arm) -> None:
        if given.only is not None and arm.name not in given.only:
            return
        if "motion" in given.tasks:
            motion.run(arm)
        if "fight" in given.tasks:  # a twentieth of the motion clips: a sixth of the steps
            fewer = {"finetune.min_steps": given.steps // 6}
            fight.run(replace(arm, finetune=arm.finetune and {**arm.finetune} | fewer))

    for one in arms:
        run(one)
    spent = [given.out / name / "cpu_seconds" for name in ("amd", "videomae")]
    if all(file.exists() for file in spent):  # as long as AMD took
        taught_s, alone_s = (float(file.read_text()) for file in spent)
        longer = {"train.epochs": round(given.epochs * taught_s / alone_s)}
        arms.append(arm("videomae-long", "videomae", **alone | longer))
        run(arms[-1])
    for task in (motion, fight):
        print(task.table(arms, task.task.strip("-")), flush=True)


if __name__ == "__main__":
    main()
