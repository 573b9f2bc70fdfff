"""A step never makes the host wait for the device: no Python numbers are copied, none are read."""

import pytest
import torch
from building import build
from torch.utils._python_dispatch import TorchDispatchMode

from vistill.batch import Batch
from vistill.models.vit import VisionTransformer
from vistill.training.measure import Sums

WAITING = (
    "aten.lift_fresh",  # torch.tensor(...) and new_tensor(...): a blocking copy
    "aten.scalar_tensor",  # a number beside a tensor in torch.where: likewise
    "aten._local_scalar_dense",  # .item(), float(...), if tensor: a blocking read
    "aten.nonzero",  # boolean masks
)


@pytest.fixture(autouse=True)
def as_on_a_device(monkeypatch):
    """On a host alone branches that drop path drops are left out, which takes their number."""
    monkeypatch.setattr("vistill.models.layers.samples_kept", lambda *_: None)


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(WAITING):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def vit(width, heads):
    return VisionTransformer(image_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=heads)


def clip_vit(width):
    return VisionTransformer(
        image_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=3,
        tubelet_size=2, num_frames=4, class_token=False, qkv_bias="no_key",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mae", {"decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2}}),
        ("tinymim", {}),
        ("tinymim", {"target": "feature", "input": "masked"}),
        ("amd", {}),
        ("amd", {"target_norm": "layer_norm", "projection": "mlp"}),
    ],
)
def test_forward_and_backward(name, options):
    torch.manual_seed(0)
    teacher = None if name == "mae" else vit(48, 6)
    method = build(name, vit(24, 3), teacher, drop_path=0.1, **options)
    method.train()
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels=pixels, seeds=torch.arange(4), ids=torch.arange(4))
    with Watch() as watch:
        method(batch).total.backward()
    assert watch.found == []


@pytest.mark.parametrize("name", ["videomae", "amd"])
def test_clips(name):
    torch.manual_seed(0)
    student, teacher = (clip_vit(width) for width in (24, 48))
    method = build(name, student, teacher if name == "amd" else None, drop_path=0.1)
    method.train()
    pixels = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels=pixels, seeds=torch.arange(2), ids=torch.arange(2))
    with Watch() as watch:
        method(batch).total.backward()
    assert watch.found == []


@pytest.mark.parametrize("mask", ["semantic", "random", "none"])
def test_frames(mask):
    torch.manual_seed(0)
    method = build("umt", clip_vit(24), vit(48, 6), aligned_layers=2, mask=mask, drop_path=0.1)
    method.train()
    pixels = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    batch = Batch(pixels=pixels, seeds=torch.arange(2), ids=torch.arange(2))
    with Watch() as watch:
        method(batch).total.backward()
    assert watch.found == []


def test_sums_of_the_loop():
    sums, value = Sums(torch.device("cpu")), torch.ones(())
    with Watch() as watch:
        sums.add("loss", value)
        sums.check(value, 3)
    assert watch.found == []


def test_the_watch_sees_what_it_should():
    tensor = torch.ones(3)
    with Watch() as watch:
        tensor.new_tensor([1.0])
        tensor.sum().item()
        torch.where(tensor > 0, 1.0, tensor)
    assert {name.partition(".")[2].partition(".")[0] for name in watch.found} >= {
        "lift_fresh",
        "_local_scalar_dense",
        "scalar_tensor",
    }
