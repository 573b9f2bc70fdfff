"""What every method does alike: weighted terms, and finding out what gets no gradient."""

import torch
from building import build
from torch import nn
from unequal import batch, teacher

from vistill.methods.base import weighted
from vistill.methods.unreached import freeze_unreached
from vistill.models.adapters.any_cnn import PooledBackbone


def test_weights_are_in_the_total_alone():
    x = torch.tensor(2.0, requires_grad=True)
    found = weighted({"a": (3.0, x), "b": (0.5, x.square())}, {"c": x + 1})
    found.total.backward()
    assert (found.total.item(), x.grad.item()) == (3 * 2 + 0.5 * 4, 3 + 0.5 * 4)
    assert {name: term.item() for name, term in found.terms.items()} == {"a": 2.0, "b": 4.0}
    assert found.watched["c"].item() == 3.0
    assert not any(t.requires_grad for t in (*found.terms.values(), *found.watched.values()))


def test_the_search_for_unreached_parameters_changes_nothing_but_what_is_frozen():
    """Statistics of a batch norm are as before, and so are modes; gradients are none."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())
    unused = nn.Linear(2, 2)
    cnn = PooledBackbone(
        nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), image_size=32
    )
    cnn.unused = unused
    method = build("kdep", cnn, teacher(), align="channel_random").eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert freeze_unreached(method, batch()) == ["student.unused.weight", "student.unused.bias"]
    assert not method.training
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert {p.requires_grad for p in unused.parameters()} == {False}
    assert {p.requires_grad for p in layers.parameters()} == {True}
