"""Batch norms on two ranks are those of one with the whole batch."""

import pytest
import torch
from ranks import session
from timm.layers import BatchNormAct2d
from torch import nn

from vistill.training.distributed import World, connect
from vistill.training.norms import norms_of_all_ranks

SHAPES = [(8, 3, 5, 4), (6, 4), (2, 3, 1, 1), (4, 2, 3)]


def net(shape) -> nn.Module:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    torch.manual_seed(1)
    parts = [kind(shape[1]), nn.Tanh(), kind(shape[1], momentum=0.3, affine=False)]
    if len(shape) == 4:
        parts.append(BatchNormAct2d(shape[1]))
    return nn.Sequential(*parts)


def trained(world: World) -> list[dict]:
    """A step on this rank's part of every batch: what it gives, gradients and averages."""
    found = []
    for shape in SHAPES:
        torch.manual_seed(len(shape))
        whole, wanted = torch.randn(2, *shape) + 1
        mine = slice(world.rank * shape[0] // world.size, (world.rank + 1) * shape[0] // world.size)
        module, x = net(shape), whole[mine].clone().requires_grad_()
        with norms_of_all_ranks(world):
            out = module(x)
            ((out - wanted[mine]) ** 3).mean().backward()
            calm = module.eval()(whole)
        found.append(
            {
                "out": out.detach(),
                "x": x.grad / world.size,
                "calm": calm.detach(),
                **{name: p.grad for name, p in module.named_parameters()},
                **{f"{name} kept": buffer for name, buffer in module.named_buffers()},
            }
        )
    return found


def rank(out) -> int:
    world = connect("cpu", "device")
    torch.save(trained(world), out / f"{world.rank}.pt")
    return 0


def test_two_ranks_are_one(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    done = session([out], 2, lambda: rank(out))
    assert done.returncode == 0, done.stderr
    one = trained(World(0, 1, torch.device("cpu")))
    both = [torch.load(out / f"{number}.pt") for number in range(2)]
    for expected, first, second in zip(one, *both, strict=True):
        assert expected.keys() == first.keys()
        for name, value in expected.items():
            if name in ("out", "x"):
                found = torch.cat([first[name], second[name]])
            elif name == "calm" or name.endswith("kept"):
                assert torch.equal(first[name], second[name])
                found = first[name]
            else:
                found = (first[name] + second[name]) / 2  # as training does
            torch.testing.assert_close(found, value, atol=2e-5, rtol=1e-4, msg=name)


def test_one_rank_keeps_torch_s_own():
    torch.manual_seed(0)
    x, module = torch.randn(1, 3, 1, 1), nn.BatchNorm2d(3)
    with (
        norms_of_all_ranks(World(0, 1, torch.device("cpu"))),
        pytest.raises(ValueError, match="more than 1 value"),
    ):
        module(x)
