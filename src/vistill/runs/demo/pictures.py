"""The demo on pictures: TinyMIM against MAE and no pre-training, on packaged blood cells."""

from pathlib import Path
from typing import TYPE_CHECKING

from vistill.runs.demo.comparison import ALONE, DISTILLED, RANDOM, Comparison

if TYPE_CHECKING:
    from vistill.analysis.report import Section

ASSETS = Path(__file__).parents[2] / "assets" / "blood_cells"

PICTURES = Comparison(
    title="vistill demo",
    names={
        DISTILLED: "distilled from the teacher (TinyMIM)",
        ALONE: "pre-trained alone (MAE)",
        RANDOM: "not pre-trained",
    },
    unlabelled=str(ASSETS / "photos.zip"),
    train=f"{ASSETS / 'cells.zip'}/train",
    test=f"{ASSETS / 'cells.zip'}/test",
    student={
        "student.model": "vit",
        "student.patch_size": 8,
        "student.embed_dim": 96,
        "student.depth": 6,
        "student.num_heads": 3,
        "data.image_size": 64,
        "data.crop_scale": [0.03, 0.12],
        "data.workers": 1,
        "optim.lr": 1e-3,
        "train.global_batch_size": 64,
        "train.precision": "fp32",  # the same rows on a processor with AMX and on one without
        "train.evaluate_every": 1000,
        "train.device": "cpu",
    },
    # The steps give both about the same time: MAE's are cheaper, because it has no teacher and its
    # encoder sees a quarter of the patches.
    runs={
        DISTILLED: (
            "tinymim",
            {
                "teacher.model": f"run:{ASSETS / 'teacher'}",
                "teacher.block": 5,
                "student.drop_path": 0.0,
                "method.relation.heads": 6,
                "train.epochs": 30,
                "optim.warmup_epochs": 3,
            },
        ),
        ALONE: (
            "mae",
            {
                "method.decoder.embed_dim": 96,
                "method.decoder.depth": 2,
                "method.decoder.num_heads": 3,
                "train.epochs": 60,
                "optim.warmup_epochs": 6,
            },
        ),
    },
    views="crops",
    protocol="finetune",
    labels="30/class",
    measuring={
        "finetune.epochs": 1,
        "finetune.min_steps": 120,
        "finetune.global_batch_size": 20,
        "workers": 1,
        "device": "cpu",
    },
    explained="A vision transformer of 0.7 million parameters was pre-trained on 205 unlabelled "
    "photographs of blood smears, once with a teacher of 2.7 million parameters and once without, "
    "and then fine-tuned on 30 labelled tiles of each class. Accuracy is the mean over {seeds} "
    "seeds on {n_test} tiles of other photographs; the interval is Student's over the seeds.",
    origin=ASSETS / "README.md",
)


def picture_sections() -> "list[Section]":
    """Some of the photographs and tiles."""
    from vistill.analysis.report import Section
    from vistill.data import open_source

    photos = open_source(PICTURES.unlabelled)
    cells = open_source(PICTURES.test)
    tiles = [
        (name, cells.read(i))
        for label, name in enumerate(cells.classes or [])
        for i in range(len(cells))
        if cells.labels is not None and cells.labels[i] == label
    ]
    shown = [(photos.sample_name(i), photos.read(i)) for i in range(0, len(photos), 40)]
    return [
        Section("Unlabelled photographs", pictures=shown),
        Section("Labelled tiles", pictures=tiles[:: len(tiles) // 18]),
    ]
