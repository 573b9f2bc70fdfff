"""Make a small AVA-format set out of labelled clips: two of them share a picture, side by side.

Where a clip is shown is the box of its "person", and its label is the action, so that boxes and
actions are exact and the pixels are those of real clips.

python scripts/make_ava_set.py CLIPS OUT [--train 60] [--test 30] [--seed 0]

CLIPS has `train/CLASS/...` and `test/CLASS/...`. OUT gets `videos/`, `train.csv`, `val.csv`,
`actions.csv`, and `detections.csv` with the boxes of the test moved a little, scored, and joined by
weak false ones.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vistill.data import BrokenImage, Source, open_source
from vistill.data.motion_clips import write_video
from vistill.data.video.reader import VideoReader
from vistill.errors import UserError
from vistill.files import write_atomic

HEIGHT, WIDTH, FPS, FRAMES = 96, 160, 15, 32
TALLEST, SHORTEST = 84, 60


def paste(
    canvas: np.ndarray, source: Source, sample: int, column: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Put a clip somewhere into a half of the canvas, and say where."""
    with VideoReader(source.place(sample)) as video:
        step = max(1, round(video.fps / FPS))
        numbers = np.minimum(np.arange(FRAMES) * step, video.num_frames - 1)
        clip = video.read(numbers)
    height = int(rng.integers(SHORTEST, TALLEST + 1))
    width = min(round(height * clip.shape[3] / clip.shape[2]), WIDTH // 2 - 4)
    frames = F.interpolate(clip.transpose(0, 1), (height, width), mode="bilinear", antialias=True)
    top = int(rng.integers(0, HEIGHT - height + 1))
    left = column + int(rng.integers(0, WIDTH // 2 - width + 1))
    canvas[:, top : top + height, left : left + width] = frames.permute(0, 2, 3, 1).numpy()
    return left, top, left + width, top + height


def row(name: str, box: np.ndarray, *rest: object) -> str:
    """A line of a list; the key frame is the one in the middle."""
    places = ",".join(f"{value:.4f}" for value in box.clip(0, 1))
    return ",".join([name, f"{FRAMES / 2 / FPS:.3f}", places, *map(str, rest)])


def write_part(source: Source, out: Path, part: str, count: int, seed: int) -> list[str]:
    """Write `count` videos and their list; the lines of a detector's answer."""
    if source.labels is None:
        raise UserError(f"{source.name} has no labels")
    lines, detected = [], []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        name = f"{part}_{number:04d}"
        canvas = rng.integers(0, 60, (1, HEIGHT, WIDTH, 3), dtype=np.uint8).repeat(FRAMES, 0)
        for person, sample in enumerate(rng.choice(len(source), 2, replace=False).tolist()):
            try:
                pixels = paste(canvas, source, sample, person * WIDTH // 2, rng)
            except BrokenImage:
                continue
            box = np.array(pixels) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
            lines.append(row(name, box, source.labels[sample] + 1, person))
            moved = box + rng.normal(0, 0.01, 4)
            detected.append(row(name, moved, "", f"{rng.uniform(0.82, 0.99):.3f}"))
        false = np.array([0.1, 0.1, 0.3, 0.4]) + np.tile(rng.uniform(0, 0.5, 2), 2)
        detected.append(row(name, false, "", f"{rng.uniform(0.1, 0.9):.3f}"))
        write_video(out / "videos" / f"{name}.mp4", torch.from_numpy(canvas), fps=FPS)
    write_atomic(out / f"{part}.csv", "\n".join(lines) + "\n")
    return detected


def main() -> None:
    """Read the words of the command line and write the set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=60, help="videos to learn from")
    parser.add_argument("--test", type=int, default=30, help="videos to test on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train, test = (open_source(str(given.clips / part), "video") for part in ("train", "test"))
    (given.out / "videos").mkdir(parents=True, exist_ok=True)
    write_part(train, given.out, "train", given.train, 2 * given.seed)
    detected = write_part(test, given.out, "val", given.test, 2 * given.seed + 1)
    write_atomic(given.out / "detections.csv", "\n".join(detected) + "\n")
    names = "".join(f"{number},{name}\n" for number, name in enumerate(test.classes or [], 1))
    write_atomic(given.out / "actions.csv", names)


if __name__ == "__main__":
    main()
