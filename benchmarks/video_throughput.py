"""Clips per second of the pipeline against the bare decoder, before and after `vistill prepare`.

The bare decoder is PyAV as its own examples use it: open, decode from the first frame to the last
one that is wanted, convert these to RGB. The reader seeks and skips; the pipeline adds the draw of
the frames, the crops and the batch. Decoder and reader read the same frames, the pipeline draws its
own in the same way; one thread, in turns, so that their ratios mean something on a busy machine.

    python benchmarks/video_throughput.py --data CLIPS [--frames 16] [--stride 4] [--rounds 3]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch

import vistill
from vistill.data import Source, TrainStream, open_source
from vistill.data.loader import Request
from vistill.data.loading import SampleReader
from vistill.data.video.clips import ClipDecoder
from vistill.data.video.device import DeviceCrop
from vistill.data.video.reader import VideoReader
from vistill.data.video.sampling import training_clip
from vistill.data.video.transforms import VideoTrainTransform


def bare(path: str, wanted: np.ndarray) -> None:
    """Decode from the start and keep what is wanted."""
    asked, last = set(wanted.tolist()), int(wanted.max())
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in asked:
                frame.to_ndarray(format="rgb24")
            if number >= last:
                return


def reader(path: str, wanted: np.ndarray) -> None:
    """The same frames through the reader."""
    with VideoReader(path) as video:
        video.read(wanted)


def rates(source: Source, options: argparse.Namespace, sampling: str) -> dict[str, float]:
    """Clips per CPU second of every side; medians over the rounds."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(source))[: options.count]
    paths = [source.place(int(i)) for i in chosen]
    wanted = []
    for path in paths:
        with VideoReader(path) as video:
            n = video.num_frames
        wanted.append(training_clip(n, options.frames, options.stride, sampling, rng))
    decoder = ClipDecoder(options.frames, options.stride, sampling)
    transform = VideoTrainTransform(options.size)
    device = DeviceCrop(transform, torch.device("cpu"))

    def pipeline(transform: VideoTrainTransform | DeviceCrop, repeats: int) -> Callable[[], None]:
        samples = SampleReader(source, transform, 0, decode=decoder, repeats=repeats)

        def run() -> None:
            for start in range(0, len(chosen), 8):
                samples(Request(0, chosen[start : start + 8]))

        return run

    sides: dict[str, Callable[[], object]] = {
        "bare_decoder": lambda: [bare(*pair) for pair in zip(paths, wanted, strict=True)],
        "reader": lambda: [reader(*pair) for pair in zip(paths, wanted, strict=True)],
        "pipeline": pipeline(transform, 1),
        "pipeline_4_repeats": pipeline(transform, 4),
        "pipeline_device_crop": pipeline(device, 1),
    }
    clips = {name: len(paths) * (4 if name.endswith("4_repeats") else 1) for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(options.rounds + 1):
        for name, work in sides.items():
            start = time.process_time()
            work()
            if round_:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return {
        name: round(clips[name] / statistics.median(spent), 1) for name, spent in seconds.items()
    }


def loader(source: Source, options: argparse.Namespace, sampling: str) -> float:
    """Clips per second of wall time of the training stream with loader processes."""
    stream = TrainStream(
        source,
        np.arange(len(source)),
        VideoTrainTransform(options.size),
        seed=0,
        global_batch_size=min(8, len(source)),
        micro_batch_size=min(8, len(source)),
        workers=options.workers,
        max_broken=1.0,
        decode=ClipDecoder(options.frames, options.stride, sampling),
    )
    batches = stream.iterate(0, 1 << 30)
    for _ in range(4):
        next(batches)
    start, seen = time.perf_counter(), 0
    while seen < options.count * options.rounds:
        seen += len(next(batches))
    rate = seen / (time.perf_counter() - start)
    stream.close()
    return round(rate, 1)


def table(report: dict) -> str:
    """The report as Markdown."""
    sides = ["bare_decoder", "reader", "pipeline", "pipeline_4_repeats", "pipeline_device_crop"]
    lines = [
        "| videos | sampling | "
        + " | ".join(side.replace("_", " ") for side in sides)
        + " | stream, wall |",
        "|---" * (len(sides) + 3) + "|",
    ]
    for state, by_sampling in report["clips_per_cpu_second"].items():
        for sampling, found in by_sampling.items():
            cells = " | ".join(f"{found[side]:g}" for side in sides)
            wall = report["stream_per_second"][state][sampling]
            lines.append(f"| {state} | {sampling} | {cells} | {wall:g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="a folder or list of videos")
    parser.add_argument("--count", type=int, default=48, help="clips a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="for the stream's wall time")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--size", type=int, default=224, help="side of the crops")
    parser.add_argument("--short-side", type=int, default=256, help="of the prepared videos")
    parser.add_argument("--gop", type=int, default=8, help="of the prepared videos")
    options = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        prepared = vistill.prepare(
            options.data, out=Path(folder) / "prepared", transcode=True,
            short_side=options.short_side, gop=options.gop, quick=True,
        )  # fmt: skip
        original = open_source(options.data, "video")
        states = {
            "as they are": original,
            "prepared": open_source(str(prepared.index), "video"),
        }
        size = sum(Path(original.place(i)).stat().st_size for i in range(len(original)))
        report = {
            "videos": f"{len(original)}, {size / 1e6:.1f} MB; after {prepared.size / 1e6:.1f} MB",
            "clip": f"{options.frames} frames, stride {options.stride}, {options.size} px",
            "prepare": f"short side {options.short_side}, GOP {options.gop}, H.264",
            "clips_per_cpu_second": {
                state: {name: rates(source, options, name) for name in ("dense", "segments")}
                for state, source in states.items()
            },
            "stream_per_second": {
                state: {name: loader(source, options, name) for name in ("dense", "segments")}
                for state, source in states.items()
            },
            "stream_workers": options.workers,
            "versions": {"torch": torch.__version__, "av": av.__version__},
        }
    print(json.dumps(report, indent=2))
    print(table(report))


if __name__ == "__main__":
    main()
