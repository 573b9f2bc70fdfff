"""CPU ms a picture for KDEP's jittered colours and lighting on the host, beside the same in batched
operations as devices compute it; one thread, the sides in turn. The values have to be equal.

    python benchmarks/recolouring.py [--size 224] [--batch 64] [--rounds 5]
        [--out benchmarks/results/recolouring.json]
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

from vistill.augment import jitter, lighting
from vistill.batch import Batch
from vistill.config.methods import KDEPConfig
from vistill.methods.kdep_parts import recoloured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, 3, options.size, options.size)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    batch = Batch(pixels, seeds=torch.arange(options.batch), ids=torch.arange(options.batch))
    config = KDEPConfig()

    def batched() -> torch.Tensor:
        look = batch.unit_pixels()
        assert config.color_jitter is not None
        look = jitter._batched(look, *jitter.jitter_draws(batch.seeds, config.color_jitter))
        alpha = lighting.lighting_draws(batch.seeds, config.lighting_std)
        return lighting.apply_lighting(look, alpha).clamp(0, 1)

    sides = {"batched": batched, "host": lambda: recoloured(config, batch)}
    looks = [side() for side in sides.values()]
    apart = float((looks[0] - looks[1]).abs().max()) * 255
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            start = time.process_time()
            side()
            spent[name].append(1e3 * (time.process_time() - start) / options.batch)
    result = {f"{name}_ms": round(median(times), 3) for name, times in spent.items()}
    result |= {"grey_levels_apart": apart, "size": options.size, "batch": options.batch}
    print(json.dumps(result, indent=2))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
