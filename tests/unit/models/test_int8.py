"""Products in int8: near the layer's own, each picture for itself, in the type asked for."""

import pytest
import torch
from int8_here import needs_int8
from torch import nn

from vistill.models.int8 import Int8Linear, Pictures, lacks_int8, layers


@needs_int8
@pytest.mark.parametrize("shape", [(4, 70), (4, 9, 70), (4, 3, 3, 70), (24, 9, 70)])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_of_every_shape(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, pictures = nn.Linear(70, 90, bias=bias), Pictures()
    pictures.count = 4
    cheap = Int8Linear(linear, pictures)
    x = torch.randn(shape)
    x[: shape[0] // 4] *= 1000  # the first picture's values say nothing of the others'
    found, told = cheap(x), linear(x)
    assert found.shape == told.shape
    assert found.dtype == torch.float32
    for mine, theirs in zip(found.chunk(4), told.chunk(4), strict=True):
        assert 0 < (mine - theirs).norm() < 0.03 * theirs.norm()
    pictures.count = 1
    each = [cheap(part) for part in x.chunk(4)]
    assert torch.equal(torch.cat(each), found)
    with torch.autocast("cpu", torch.bfloat16):
        assert cheap(x).dtype == torch.bfloat16
    assert cheap(x.bfloat16()).dtype == torch.bfloat16


def test_nothing_in_gives_the_bias() -> None:
    linear = nn.Linear(64, 64)
    found = Int8Linear(linear, Pictures())(torch.zeros(2, 64))
    torch.testing.assert_close(found, linear.bias.expand(2, -1))


def test_wide_layers_that_compute_as_linear_does() -> None:
    class Other(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    wide = nn.Linear(64, 128)
    model = nn.Sequential(wide, Other(128, 128), nn.Linear(128, 2), nn.Conv2d(64, 64, 1))
    assert layers(model) == [wide]


def test_what_is_lacking_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks_int8.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert lacks_int8() == "this CPU has no instructions for it"
    lacks_int8.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.delattr(torch, "quantize_per_channel")
    assert lacks_int8() == f"torch {torch.__version__} has no such product"
    lacks_int8.cache_clear()
