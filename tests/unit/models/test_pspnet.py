"""PSPNet around a distilled CNN."""

import pytest
import torch

from vistill.errors import UserError
from vistill.models.build import create_backbone
from vistill.models.pspnet import PixelHead, PSPNet
from vistill.models.vit import VisionTransformer


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stride"), [("resnet18", 8), ("mobilenet_v2", 32)])
def test_scores_of_every_pixel(name, stride):
    torch.manual_seed(0)
    net = PSPNet(create_backbone(f"torchvision/{name}", image_size=64), 5)
    images = torch.randn(2, 3, 64, 96)
    seen = []
    net.ppm.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    scores, auxiliary = net(images)
    assert scores.shape == (2, 5, 64, 96)
    assert (auxiliary is None) == (name == "mobilenet_v2")
    assert seen[0][2:] == (64 // stride, 96 // stride)
    assert net.eval()(images)[1] is None
    (scores.sum() + (0 if auxiliary is None else auxiliary.sum())).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    grouped = [parameter for group in net.groups() for parameter in group["params"]]
    assert {*map(id, grouped)} == {*map(id, net.parameters())}


def test_channels_are_dropped_by_the_seeds_of_pictures():
    head = PixelHead(4, 64, 3).train()
    x, seeds = torch.randn(3, 4, 5, 5), torch.tensor([5, 6, 7])
    found = head(x, seeds)
    assert torch.equal(head(x, seeds), found)
    assert not torch.equal(head(x, seeds + 1), found)
    seen = []
    head[4].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    head(x, seeds)
    whole = head[2](head[1](head[0](x)))
    kept = (seen[0] != 0).any(dim=(2, 3))
    torch.testing.assert_close(seen[0], whole * kept[:, :, None, None] / 0.9)
    assert 0.8 < kept.float().mean() < 0.98


def test_other_networks_are_refused():
    vit = VisionTransformer(image_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=3)
    with pytest.raises(UserError, match="ResNets and MobileNetV2, not on a VisionTransformer"):
        PSPNet(vit, 3)
