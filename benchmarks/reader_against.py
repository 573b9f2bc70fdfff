"""CPU time of reading clips against an earlier commit, clip by clip and in turns.

    python benchmarks/reader_against.py --data CLIPS [--against 919c122] [--count 60] [--rounds 30]

Two processes hold the two versions of the package and are asked for the same frames of the same
file one after the other. Of every clip each side's fastest round counts: on a busy machine the
rest is noise. Opening alone is measured too, and the frames of both have to be the same.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vistill.data import open_source
from vistill.data.video.sampling import training_clip

ROOT = Path(__file__).parents[1]
SIDE = """
import json, sys, time, zlib
from vistill.data.broken import BrokenImage
from vistill.data.video.reader import VideoReader
for line in sys.stdin:
    path, wanted = json.loads(line)
    start, told = time.process_time(), 0
    try:
        with VideoReader(path) as video:
            told = video.num_frames
            if wanted:
                told = video.read(wanted)
    except BrokenImage:
        pass
    spent = time.process_time() - start
    if not isinstance(told, int):
        told = zlib.crc32(told.permute(1, 2, 3, 0).contiguous().numpy())
    print(json.dumps([spent, told]), flush=True)
"""


class Side:
    """A process with one version of the package."""

    def __init__(self, source: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SIDE],
            env={"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self, path: str, wanted: list[int]) -> tuple[float, int]:
        """CPU seconds, and the number of frames or, of wanted frames, their checksum."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([path, wanted]) + "\n")
        stdin.flush()
        seconds, told = json.loads(stdout.readline())
        return seconds, told


def compare(options: argparse.Namespace, before: Side, after: Side) -> dict[str, Any]:
    """Sums of the fastest rounds of all clips, and their ratios."""
    source = open_source(options.data, "video")
    rng = np.random.default_rng(0)
    names = ("open", *options.sampling)
    spent = {name: np.zeros(2) for name in names}
    others, clips = [], 0
    for i in rng.permutation(len(source))[: options.count].tolist():
        path = str(source.place(i))
        frames = after.read(path, [])[1]
        if not frames:
            continue
        clips += 1
        wanted = {"open": []} | {
            name: training_clip(frames, options.frames, options.stride, name, rng).tolist()
            for name in options.sampling
        }
        for name in names:
            rounds = []
            for number in range(options.rounds):
                turn = (before, after) if number % 2 else (after, before)
                pair = [side.read(path, wanted[name]) for side in turn]
                rounds.append(pair if number % 2 else pair[::-1])
            spent[name] += np.array([[side[0] for side in pair] for pair in rounds]).min(axis=0)
            if name != "open" and rounds[0][0][1] != rounds[0][1][1]:
                others.append(f"{source.sample_name(i)} ({name})")
    report: dict[str, Any] = {
        name: {
            "before": round(float(old), 3),
            "after": round(float(new), 3),
            "ratio": round(float(new / old), 3),
        }
        for name, (old, new) in spent.items()
    }
    return {"clips": clips, **report, "other_frames": sorted(set(others))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder or list of videos")
    parser.add_argument("--against", default="919c122", help="the earlier commit")
    parser.add_argument("--count", type=int, default=60, help="videos")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--sampling", nargs="+", default=["dense", "segments"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", options.against, "src"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        report = compare(options, Side(Path(folder) / "src"), Side(ROOT / "src"))
    print(json.dumps({"against": options.against, **report}, indent=1))


if __name__ == "__main__":
    main()
