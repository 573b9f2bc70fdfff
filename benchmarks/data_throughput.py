"""Pictures per CPU second from encoded bytes to a training crop: vistill against a Pillow pipeline.

The other side is the usual one: Pillow decoding, torchvision's RandomResizedCrop and flip on PIL
pictures, conversion to normalised floats. One thread; the sides take turns within one run, so their
ratio is meaningful even on a busy machine.

    python benchmarks/data_throughput.py --data PICTURES [--count 200] [--rounds 5] [--workers 2]
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from vistill.data import TrainStream, TrainTransform, decode_image, open_source

SIZE = 224
SCALE = (0.2, 1.0)


def cpu_seconds(work: Callable[[bytes], object], pictures: list[bytes]) -> float:
    start = time.process_time()
    for data in pictures:
        work(data)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="pictures: folder, list, .tar or .zip")
    parser.add_argument("--count", type=int, default=200, help="pictures a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="for the stream's wall time")
    options = parser.parse_args()
    torch.set_num_threads(1)

    source = open_source(options.data)
    pictures = [source.read(i) for i in range(min(options.count, len(source)))]
    transform = TrainTransform(SIZE, scale=SCALE)
    rng = np.random.default_rng(0)
    classic = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=SCALE, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    sides: dict[str, Callable[[bytes], object]] = {
        "pillow_decode": lambda data: Image.open(io.BytesIO(data)).convert("RGB"),
        "pillow": lambda data: classic(Image.open(io.BytesIO(data)).convert("RGB")),
        "vistill_decode": decode_image,
        "vistill": lambda data: transform(decode_image(data), rng),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(options.rounds + 1):
        for name, work in sides.items():
            spent = cpu_seconds(work, pictures)
            if round_:  # the first one warms up
                seconds[name].append(spent)
    rates = {name: len(pictures) / statistics.median(spent) for name, spent in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["pillow"], seconds["vistill"], strict=True)]

    stream = TrainStream(
        source,
        np.arange(len(source)),
        transform,
        seed=0,
        global_batch_size=min(32, len(source)),
        micro_batch_size=min(32, len(source)),
        workers=options.workers,
        max_broken=1.0,
    )
    batches = stream.iterate(0, 1 << 30)
    next(batches)
    start, seen = time.perf_counter(), 0
    while seen < options.count * options.rounds:
        seen += len(next(batches))
    wall = seen / (time.perf_counter() - start)
    stream.close()

    height, width = decode_image(pictures[0]).shape[1:]
    report = {
        "pictures": f"{len(pictures)} such as {width}x{height}",
        "crop": f"{SIZE} px, scale {SCALE}, bicubic",
        "per_cpu_second": {name: round(rate, 1) for name, rate in rates.items()},
        "vistill_over_pillow": round(statistics.median(ratios), 2),
        "vistill_over_pillow_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "stream_per_wall_second": round(wall, 1),
        "stream_workers": options.workers,
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
