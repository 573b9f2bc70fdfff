"""Compiled teachers: whole where they are vistill's own, by blocks where hooks read them."""

from functools import partial

import pytest
import torch

from vistill.models.backbone import Tap
from vistill.models.build import load_backbone
from vistill.models.compiled import compile_teacher
from vistill.models.precision import run_in
from vistill.models.vit import VisionTransformer

pytestmark = pytest.mark.slow  # the compiler alone takes ten seconds to load


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that were compiled, by a compiler that runs them as they are."""
    found = []

    def backend(graph, _):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    yield found
    torch.compiler.reset()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["block", "attention", "qkv", "norm"])
def test_blocks_of_a_hooked_model_are_compiled_where_no_hook_looks_inside(graphs, kind):
    model = load_backbone("timm/test_vit2", image_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    kind = kind if kind in model.taps else "block"
    tap = Tap(kind, model.depth)
    told = model.tap(images, [tap])[tap]
    undo = compile_teacher(model)
    for _ in range(2):
        assert torch.equal(model.tap(images, [tap])[tap], told)
    assert bool(graphs) != model._watches({tap})  # all of such a pass is listened to
    count = len(graphs)
    model.tap(images, [tap])
    assert len(graphs) == count
    undo()
    assert all("forward" not in vars(block) for block in model.blocks)
    assert torch.equal(model.tap(images, [tap])[tap], told)


@torch.no_grad()
def test_blocks_are_compiled_inside_a_method_that_is(graphs):
    model = load_backbone("timm/test_vit2", image_size=64).eval()
    images, tap = torch.randn(2, 3, 64, 64), Tap("block", 2)
    told = model.tap(images, [tap])[tap]
    undo = compile_teacher(model)
    seen = torch.compile(lambda: model.tap(images, [tap])[tap] + 1)()
    assert torch.equal(seen, told + 1)
    assert any("scaled_dot_product" in graph.code for graph in graphs)
    undo()


@torch.no_grad()
def test_a_model_of_our_own_is_compiled_whole_and_int8_is_left(graphs):
    model = VisionTransformer(image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2)
    images, tap = torch.randn(2, 3, 32, 32), Tap("block", 2)
    give_back = run_in(model.eval(), "bf16")
    rough = vars(model)["tap"]
    told = model.tap(images, [tap])[tap]
    undo = compile_teacher(model)
    assert torch.equal(model.tap(images, [tap])[tap], told)
    assert graphs
    undo()
    assert vars(model)["tap"] is rough
    give_back()
    run_in(model, "int8")
    before = dict(vars(model))
    compile_teacher(model)()
    assert vars(model) == before
