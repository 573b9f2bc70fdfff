"""CNNs of the user's own: the layer that is read, one of several maps, heads of linear layers."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone

MAP, MAP_ACT, POOLED = (Tap(kind, 0) for kind in ("map", "map_act", "pooled"))
PICTURES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Pyramid(nn.Module):
    """A detector's backbone: three maps, the coarsest of which is made first."""

    def __init__(self, give: Any = list) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 4, 6, 8)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.fpn = FeaturePyramidNetwork(list(widths[1:]), 5)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        maps = OrderedDict()
        for number, stage in enumerate(self.stages, 3):
            maps[f"P{number}"] = x = F.relu(stage(x))
        found = self.fpn(maps)
        return found if self.give is dict else self.give(found.values())


@torch.no_grad()
@pytest.mark.parametrize("give", [list, tuple, dict])
@pytest.mark.parametrize("number", [None, 0, 1, 2])
def test_one_of_several_maps(give: Any, number: int | None) -> None:
    module = Pyramid(give).eval()
    keys = ["P3", "P4", "P5"] if give is dict else [0, 1, 2]
    output = None if number is None else keys[number]
    model = PooledBackbone(module, image_size=64, output=output).eval()
    everything = module(PICTURES)
    expected = everything[keys[2 if number is None else number]]
    found = model.tap(PICTURES, [MAP, POOLED])
    assert torch.equal(found[MAP], expected)
    torch.testing.assert_close(found[POOLED], expected.mean((2, 3)))
    torch.testing.assert_close(model.pooled(PICTURES), expected.mean((2, 3)))
    assert torch.equal(model(PICTURES), expected.flatten(2).mT)
    assert model.width == 5
    key = keys[2 if number is None else number]
    assert model.reads == f"map {key!r} of {', '.join(map(repr, keys))} that Pyramid gives"


@torch.no_grad()
def test_a_layer_by_name() -> None:
    module = Pyramid().eval()
    model = PooledBackbone(module, image_size=64, layer="stages.1").eval()
    expected = module.stages[1](F.relu(module.stages[0](PICTURES)))
    assert torch.equal(model.tap(PICTURES, [MAP])[MAP], expected)
    assert (model.width, model.reads) == (6, "what layer stages.1 gives")
    fpn = PooledBackbone(module, image_size=64, layer="fpn", output="P4").eval()
    assert torch.equal(fpn.tap(PICTURES, [MAP])[MAP], module(PICTURES)[1])
    ran: list[int] = []
    module.stages[2].register_forward_hook(lambda *_: ran.append(1))
    model.tap(PICTURES, [MAP])
    assert not ran  # nothing behind the layer


@torch.no_grad()
def test_an_activation_is_a_layer_with_a_before() -> None:
    module = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 6, 3), act=nn.ReLU(True), more=nn.Conv2d(6, 4, 3))
    ).eval()
    model = PooledBackbone(module, image_size=64, layer="act").eval()
    found = model.tap(PICTURES, [MAP, MAP_ACT])
    assert torch.equal(found[MAP], module.conv(PICTURES))
    assert torch.equal(found[MAP_ACT], module.conv(PICTURES).relu())


@pytest.mark.slow
@torch.no_grad()
def test_heads_of_linear_layers() -> None:
    flat = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.Linear(8, 2)
    ).eval()
    model = PooledBackbone(flat, image_size=8, logits=True).eval()
    assert (model.width, model.reads) == (4, "its last map, which it flattens")
    pixels = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.tap(pixels, [MAP_ACT])[MAP_ACT], flat[:2](pixels))
    logits = Tap("logits", 0)
    assert torch.equal(model.tap(pixels, [logits])[logits], flat(pixels))
    known = create_backbone("torchvision/alexnet", image_size=64).eval()
    assert known.width == 256
    expected = known.module.avgpool(known.module.features(PICTURES)).mean((2, 3))
    torch.testing.assert_close(known.pooled(PICTURES), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "stage.1"}, "Pyramid has no layer 'stage.1'; near: stages.1"),
        ({"output": 3}, "the output 3 of Pyramid is no feature map; there is 0, 1, 2"),
        ({"output": "P3"}, "the output 'P3' of Pyramid is no feature map; there is 0, 1, 2"),
        (
            {"layer": "fpn", "output": 0},
            "the output 0 of layer fpn is no feature map; there is 'P3'",
        ),
        ({"layer": "unused"}, "Pyramid never comes by its layer 'unused'"),
        ({"image_size": (64, 1)}, None),
    ],
)
def test_mistakes(options: dict[str, Any], message: str | None) -> None:
    module = Pyramid()
    module.unused = nn.Conv2d(3, 3, 1)
    if message is None:
        assert PooledBackbone(module, **options).image_size == (64, 1)
        return
    with pytest.raises(UserError, match=message):
        PooledBackbone(module, **({"image_size": 64} | options))


def test_a_layer_without_a_map() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(UserError, match="layer 2 of Sequential gives no feature map"):
        PooledBackbone(module, image_size=8, layer="2")
    with pytest.raises(UserError, match="name the layer to read"):
        PooledBackbone(nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(2)), image_size=8)
