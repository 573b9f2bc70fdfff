"""Where in a picture two models differ: a patch that one of them sees otherwise is found."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vistill.config.inspect import InspectConfig
from vistill.data import open_source
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer
from vistill.runs.inspecting import Opened
from vistill.runs.regions import by_region

CELLS = Path(__file__).parents[2] / "data" / "cells" / "test"


class Blind(VisionTransformer):
    """Sees noise at one patch."""

    def tap(self, images: Any, taps: Any, **more: Any) -> Any:
        found = super().tap(images, taps, **more)
        tokens = found[taps[-1]].clone()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(tokens), tokens.shape[2], generator=generator)
        own = tokens[:, self.num_prefix_tokens + 6]
        tokens[:, self.num_prefix_tokens + 6] = noise * own.std()
        return {**found, taps[-1]: tokens}


def opened(kind: Any, width: int, patch: int) -> Opened:
    torch.manual_seed(0)
    sizes = {"image_size": 32, "embed_dim": width, "depth": 2, "num_heads": 2}
    model = kind(patch_size=patch, **sizes).eval()
    config = InspectConfig(device="cpu", workers=0)
    source = open_source(str(CELLS))
    return Opened(f"{kind.__name__}-{patch}", model, model, source, np.arange(len(source)), config)


def test_the_patch_that_differs_is_found_on_the_common_grid() -> None:
    few = np.arange(12)
    own, blind = opened(VisionTransformer, 24, 8), opened(Blind, 24, 8)
    assert Tap("block", 2) in own.backbone.tap(torch.zeros(1, 3, 32, 32), [Tap("block", 2)])
    maps = by_region(own, blind, few)
    assert maps is not None
    assert maps.shape == (12, 4, 4)
    mean = maps.mean(dim=0)
    assert int(mean.argmin()) == 6
    assert mean.flatten()[6] < mean.mean() - 0.1
    same = by_region(own, own, few)
    assert same is not None
    torch.testing.assert_close(same, torch.ones_like(same))


def test_the_coarser_grid_of_both_and_none_of_a_single_patch() -> None:
    fine, coarse = opened(VisionTransformer, 24, 8), opened(VisionTransformer, 16, 16)
    maps = by_region(fine, coarse, np.arange(2))
    assert maps is not None
    assert maps.shape == (2, 2, 2)
    assert by_region(fine, opened(VisionTransformer, 16, 32), np.arange(2)) is None
