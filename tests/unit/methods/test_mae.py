"""MAE as a method: draws come from the seeds, and only hidden patches count."""

import torch
from building import build

from vistill.batch import Batch
from vistill.losses.reconstruction import normalize_patches
from vistill.models.vit import VisionTransformer

DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}


def test_a_sample_is_masked_alike_in_any_batch():
    torch.manual_seed(0)
    student = VisionTransformer(image_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2)
    method = build("mae", student, decoder=DECODER)
    pixels, seeds = torch.rand(4, 3, 16, 16), torch.tensor([5, 6, 7, 8])
    whole = method(Batch(pixels, seeds, torch.arange(4))).total
    halves = [
        method(Batch(pixels[rows], seeds[rows], torch.arange(2))).total
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole, (halves[0] + halves[1]) / 2)


def test_normalised_patches_have_unit_statistics():
    patches = normalize_patches(torch.rand(2, 3, 48) * 7 + 3)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 3), atol=1e-3, rtol=0)
