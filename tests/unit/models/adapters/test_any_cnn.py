"""CNNs as backbones: where the last map is, in networks of many makers, and what is built on it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vistill.errors import UserError
from vistill.models.adapters.any_cnn import PooledBackbone
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone, load_backbone, load_teacher
from vistill.models.export import read_backbone, save_backbone

MAP, POOLED, MAP_ACT, POOLED_ACT = (Tap(k, 0) for k in ("map", "pooled", "map_act", "pooled_act"))


class SmallCNN(nn.Module):
    """A user's network: functional activations in place, its own way of averaging."""

    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.drop = nn.Dropout(dropout, inplace=True)
        self.fc = nn.Linear(2 * width, 5)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.norm(self.conv(x)), inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.maps(x), inplace=True)
        return self.fc(self.drop(x.view(*x.shape[:2], -1).mean(-1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width", "activated"),
    [
        ("timm/resnet10t", 512, True),
        ("timm/mobilenetv1_100", 1024, True),
        ("timm/mobilenetv2_035", 1280, True),
        ("timm/mobilenetv3_small_050", 288, True),
        ("timm/regnetx_002", 368, True),
        ("timm/efficientnet_lite0", 1280, True),
        ("timm/convnext_atto", 320, False),
        ("torchvision/resnet18", 512, True),
        ("torchvision/mobilenet_v3_small", 576, True),
        ("torchvision/regnet_y_400mf", 440, True),
        ("torchvision/efficientnet_b0", 1280, True),
        ("torchvision/convnext_tiny", 768, False),
    ],
)
@torch.no_grad()
def test_the_last_map_of(name: str, width: int, activated: bool) -> None:
    model = create_backbone(name, image_size=32).eval()
    assert isinstance(model, PooledBackbone)
    assert model.width == width
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # fresh residual branches may be all zero
            nn.init.normal_(part.weight, 1.0, 0.3)
    images = torch.randn(2, 3, 64, 64)
    found = model.tap(images, [POOLED, MAP_ACT, MAP, POOLED_ACT])
    assert {t.shape for t in (found[POOLED], found[POOLED_ACT])} == {(2, width)}
    assert found[MAP].shape == found[MAP_ACT].shape == (2, width, 2, 2)
    if activated:
        assert found[MAP].min() < found[MAP_ACT].min()
        torch.testing.assert_close(found[POOLED], found[MAP].mean((2, 3)))
    else:
        assert torch.equal(found[POOLED], found[POOLED_ACT])
    # What the library itself calls the feature in front of its classifier.
    if name.startswith("timm/") and "mobilenetv3" not in name:
        torch.testing.assert_close(found[POOLED_ACT], model.module(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.pooled(images), found[POOLED_ACT])


def test_a_network_of_the_users_own() -> None:
    cnn = SmallCNN()
    model = PooledBackbone(cnn, image_size=16)
    assert (model.width, model.depth, model.origin) == (16, 0, "given as an object")
    images = torch.randn(3, 3, 16, 16)
    model.eval()
    expected = cnn.maps(images)
    torch.testing.assert_close(model.tap(images, [MAP])[MAP], expected)
    torch.testing.assert_close(model.pooled(images), expected.relu().mean((2, 3)))
    torch.testing.assert_close(model(images), expected.relu().flatten(2).mT)


def test_nothing_behind_the_map_runs_or_learns() -> None:
    model = PooledBackbone(SmallCNN(dropout=0.9), image_size=16).train()
    model.tap(torch.randn(2, 3, 16, 16), [POOLED])
    model.module.drop.register_forward_hook(lambda *_: pytest.fail("ran beyond the map"))
    model.tap(torch.randn(2, 3, 16, 16), [POOLED])[POOLED].square().sum().backward()
    assert model.module.conv.weight.grad.abs().sum() > 0


def test_watching_leaves_no_trace() -> None:
    cnn = SmallCNN(dropout=0.5)
    cnn.norm.eval()
    before = {k: v.clone() for k, v in cnn.state_dict().items()}
    state = torch.get_rng_state()
    model = PooledBackbone(cnn, image_size=16)
    model._sites_now()
    assert cnn.training
    assert not cnn.norm.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in cnn.state_dict().items())


def test_training_may_run_other_branches() -> None:
    class WithAuxiliaryHead(SmallCNN):
        def maps(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                F.relu(self.conv(x)).sum()
            return super().maps(x)

    cnn = WithAuxiliaryHead()
    model = PooledBackbone(cnn, image_size=16)
    images = torch.randn(2, 3, 16, 16)
    cnn.norm.momentum = 0.0
    for mode in (True, False):
        model.train(mode)
        torch.testing.assert_close(model.tap(images, [MAP])[MAP], cnn.maps(images))


def test_a_module_that_returns_its_map() -> None:
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True))
    model = PooledBackbone(body, image_size=9)
    images = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(model.tap(images, [MAP])[MAP], body[0](images))


def test_a_model_without_a_pooled_map_is_refused() -> None:
    tokens = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 2))
    with pytest.raises(UserError, match="Sequential does not end in a feature map"):
        PooledBackbone(tokens, image_size=8)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(UserError, match="cannot take pictures of 16 x 16 pixels"):
        PooledBackbone(flat, image_size=16)


def test_names_and_weights() -> None:
    with pytest.raises(UserError, match="torchvision has no model 'resnet19'; near: resnet1"):
        load_backbone("torchvision/resnet19")
    with pytest.raises(UserError, match="only ':pretrained' may follow torchvision/resnet18"):
        load_backbone("torchvision/resnet18:best")
    with pytest.raises(UserError, match="write torchvision/squeezenet1_1:pretrained"):
        load_teacher("torchvision/squeezenet1_1", image_size=64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/mobilenetv2_035", "torchvision/shufflenet_v2_x0_5"])
@torch.no_grad()
def test_exports_come_back(name: str, tmp_path) -> None:
    model = create_backbone(name, image_size=48)
    save_backbone(model, tmp_path)
    again = read_backbone(tmp_path)
    assert again.image_size == (48, 48)
    images = torch.randn(1, 3, 48, 48)
    assert torch.equal(model.eval().pooled(images), again.eval().pooled(images))
    assert load_backbone(f"run:{tmp_path}", image_size=96).image_size == (96, 96)
