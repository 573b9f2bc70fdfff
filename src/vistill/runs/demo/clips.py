"""The demo on clips: AMD against VideoMAE and no pre-training, on filmed blood-cell photographs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.runs.demo.comparison import ALONE, DISTILLED, RANDOM, Comparison
from vistill.runs.demo.pictures import ASSETS

if TYPE_CHECKING:
    from vistill.analysis.report import Section

TEACHER = ASSETS.parent / "blood_cell_clips" / "teacher"
FRAMES, SIZE = 16, 32
"""Length and side of the clips in frames and pixels; the models see every second frame."""
TRAINED_ON = 145
"""How many of the photographs are filmed for training; the others are filmed for the test."""
COUNTS = {"unlabelled": 1600, "train": 400, "test": 400}
"""Clips of each part."""
_MASKED: dict[str, Any] = {
    "method.mask": "random",
    "data.image_size": SIZE,
    "data.frames": FRAMES // 2,
    "data.stride": 2,
    "data.flip": 0.0,
    "data.repeats": 4,
    "data.workers": 1,
}
_DECODER = {"embed_dim": 64, "depth": 2, "num_heads": 2}


def comparison(out: Path) -> Comparison:
    """What the demo compares, on the clips in `out/clips` (see `film`)."""
    import torch

    from vistill.training.precision import computes

    clips = out / "clips"
    precision = "bf16" if computes(torch.device("cpu"), "bf16") else "fp32"
    return Comparison(
        title="vistill demo on clips",
        names={
            DISTILLED: "distilled from the teacher (AMD)",
            ALONE: "pre-trained alone (VideoMAE)",
            RANDOM: "not pre-trained",
        },
        unlabelled=str(clips / "unlabelled"),
        train=str(clips / "train"),
        test=str(clips / "test"),
        student={
            **_MASKED,
            "student.model": "vit",
            "student.patch_size": 8,
            "student.embed_dim": 96,
            "student.depth": 4,
            "student.num_heads": 3,
            "optim.lr": 3e-3,
            "train.global_batch_size": 16,
            "train.precision": precision,
            "train.evaluate_every": 1000,
            "train.device": "cpu",
        },
        # The steps give both about the same time: VideoMAE's are cheaper without a teacher.
        runs={
            DISTILLED: (
                "amd",
                {
                    "teacher.model": f"run:{TEACHER}",
                    "method.student_mask_ratio": 0.75,
                    "method.teacher_mask_ratio": 0.5,
                    "method.target_norm": "layer_norm",
                    "method.reconstruction": {"norm_pixels": False, "decoder": _DECODER},
                    "train.epochs": 4,
                    "optim.warmup_epochs": 0.5,
                },
            ),
            ALONE: (
                "videomae",
                {
                    "method.mask_ratio": 0.75,
                    "method.norm_pixels": False,
                    "method.decoder": _DECODER,
                    "train.epochs": 6,
                    "optim.warmup_epochs": 0.5,
                },
            ),
        },
        views="clips",
        protocol="linear",
        labels="30/class",
        measuring={"workers": 1, "device": "cpu"},
        explained="Windows that move, turn and zoom over photographs of blood smears were filmed "
        f"as {FRAMES}-frame clips; the label is the motion, one of eight, which no single frame "
        "tells. A vision transformer of 0.5 million parameters was pre-trained on 1,600 unlabelled "
        "clips, once with a teacher of 0.8 million parameters and once without; then a linear "
        "classifier was trained on its features of 30 labelled clips of each motion. Accuracy is "
        "the mean over {seeds} seeds on {n_test} clips of other photographs; the interval is "
        "Student's over the seeds.",
        origin=TEACHER.parent / "README.md",
    )


def film(clips: Path) -> None:
    """Make the clips of the demo in `clips`; those that are there stay."""
    from vistill.data import open_source
    from vistill.data.motion_clips import write_motion_clips

    photos = open_source(str(ASSETS / "photos.zip"))
    for seed, (part, count) in enumerate(COUNTS.items()):
        chosen = range(TRAINED_ON, len(photos)) if part == "test" else range(TRAINED_ON)
        write_motion_clips(
            photos, clips / part, count=count, frames=FRAMES, size=SIZE, seed=seed, indices=chosen
        )


def clip_sections(clips: Path) -> "list[Section]":
    """One clip of every motion, as a strip of frames."""
    import io

    import numpy as np
    from PIL import Image

    from vistill.analysis.report import Section
    from vistill.data.motion_clips import MOTIONS
    from vistill.data.video.reader import VideoReader

    strips = []
    for motion in MOTIONS:
        with VideoReader(str(min((clips / "test" / motion).iterdir()))) as video:
            frames = video.read(np.arange(0, FRAMES, 3)).permute(1, 2, 3, 0)
        strip = Image.fromarray(np.concatenate(list(frames.numpy()), axis=1))
        buffer = io.BytesIO()
        strip.resize((strip.width * 2, strip.height * 2)).save(buffer, "png")
        strips.append((motion, buffer.getvalue()))
    return [Section("Clips of the test", pictures=strips)]
