"""Every switch of TinyMIM trains what it should, and what does not fit is refused."""

import itertools

import pytest
import torch
from building import build
from timm.models.vision_transformer import VisionTransformer as TimmViT

from vistill.batch import Batch
from vistill.errors import UserError
from vistill.methods.tinymim import TinyMIM
from vistill.methods.unreached import freeze_unreached
from vistill.models.adapters.any_transformer import ModuleBackbone
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer

DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}


def vit(width: int, depth: int = 2, heads: int = 2, **changes) -> VisionTransformer:
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": width, "depth": depth}
    return VisionTransformer(**(sizes | {"num_heads": heads} | changes))


def tinymim(student, teacher, **options) -> TinyMIM:
    return build("tinymim", student, teacher, **options)


def hooked(**changes) -> ModuleBackbone:
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    module = TimmViT(**sizes, num_classes=0, **changes)
    return ModuleBackbone(
        module,
        blocks="blocks",
        width=24,
        image_size=16,
        num_heads=2,
        num_prefix_tokens=module.num_prefix_tokens,
        qkv="attn.qkv",
    )


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return Batch(pixels, seeds=torch.arange(3) * 977, ids=torch.arange(3))


def blocks_run(teacher, look) -> int:
    """How many of the teacher's blocks run while `look` is called."""
    count = 0

    def counted(*_):
        nonlocal count
        count += 1

    handles = [block.register_forward_hook(counted) for block in teacher.blocks]
    look()
    for handle in handles:
        handle.remove()
    return count


def test_shallow_blocks_first(batch):
    """An equal share of the steps each, from a teacher that runs no further; tested on the last."""
    teacher = vit(24, depth=6)
    method = tinymim(vit(16), teacher, relation={"early_blocks": (2, 3)}, block=5).train()
    fixed = {block: tinymim(method.student, teacher, block=block).train() for block in (2, 3, 5)}
    assert method.targets_change
    assert not fixed[5].targets_change
    steps = {0.0: 2, 1 / 4: 2, 0.34: 3, 0.66: 3, 2 / 3: 5, 0.99: 5}
    for progress, block in steps.items():
        method.reached(progress)
        assert torch.equal(method.teacher_features(batch), fixed[block].teacher_features(batch))
        assert blocks_run(teacher, lambda: method.teacher_features(batch)) <= block
    method.reached(0.0)
    method.eval()
    assert torch.equal(method.teacher_features(batch), fixed[5].teacher_features(batch))


def test_early_blocks_that_do_not_fit():
    with pytest.raises(UserError, match=r"block 2, which is not shallower than block 2, with whi"):
        tinymim(vit(16), vit(24), relation={"early_blocks": (1, 2)})
    with pytest.raises(UserError, match="teacher has 2 blocks"):
        tinymim(vit(16), vit(24), relation={"early_blocks": (3,)})


KINDS = [*((k, False) for k in ("output", "block", "attention", "ffn", "qkv")),
         ("attention", True), ("ffn", True)]  # fmt: skip
PAIRS = (("qk", "vv"), ("qq", "kk", "vv"), ("qk",))
AXES = [
    *({"target": "feature", "feature": {"kind": k, "residual": r}} for k, r in KINDS),
    *({"relation": {"pairs": p, "softmax": s}} for p, s in itertools.product(PAIRS, (True, False))),
    *({"target": "class_token", "class_token": {"loss": n}} for n in ("kl", "mse", "smooth_l1")),
    {"relation": {"heads": 4}},
    {"input": "masked", "mask_ratio": 0.5},
    {"input": "masked", "mask_ratio": 0.5,
     "aux_mim": {"weight": 1.0, "decoder": DECODER}},
    {"block": 1},
    {"teacher_drop_path": 0.3},
    {"student_color_jitter": None},
]  # fmt: skip


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_every_switch_gives_a_loss_and_gradients(axis, batch):
    torch.manual_seed(0)
    method = tinymim(vit(16), vit(24, depth=3), **axis)
    losses = method(batch)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert losses.total > 0
    torch.testing.assert_close(sum(losses.terms.values()), losses.total.detach())
    gradient = method.student.blocks[0].attn.qkv.weight.grad
    assert gradient.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    # The same batch gives the same loss: every draw comes from the seeds.
    torch.testing.assert_close(method(batch).total, losses.total, atol=0, rtol=0)


def test_parameters_behind_the_relation_are_frozen_and_no_others(batch):
    method = tinymim(vit(16), vit(24))
    frozen = set(freeze_unreached(method, batch))
    last = "student.blocks.1"
    assert frozen == {
        f"{last}.attn.proj.weight", f"{last}.attn.proj.bias",
        f"{last}.norm2.weight", f"{last}.norm2.bias",
        f"{last}.mlp.fc1.weight", f"{last}.mlp.fc1.bias",
        f"{last}.mlp.fc2.weight", f"{last}.mlp.fc2.bias",
        "student.norm.weight", "student.norm.bias",
    }  # fmt: skip
    assert all(p.grad is None for p in method.parameters())


def test_the_teacher_stays_in_eval_and_out_of_the_state(batch):
    method = tinymim(vit(16), vit(24))
    method.train()
    assert not method.teacher.training
    assert not any("teacher" in name for name in method.state_dict())
    assert tinymim(vit(16), vit(24), teacher_drop_path=0.1).teacher.training


def test_default_block_is_18_of_24():
    assert tinymim(vit(16), vit(24, depth=24)).target.taps[1] == Tap("qkv", 18)
    assert tinymim(vit(16), vit(24, depth=3)).target.taps[1] == Tap("qkv", 3)


def test_student_jitter_is_for_training_only(batch):
    method = tinymim(vit(16), vit(24), drop_path=0.0)
    plain = tinymim(method.student, method.teacher, drop_path=0.0,
                    student_color_jitter=None)  # fmt: skip
    assert not torch.equal(method(batch).total, plain(batch).total)
    method.eval()
    plain.eval()
    assert torch.equal(method(batch).total, plain(batch).total)


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (
            lambda: tinymim(vit(16), vit(24), block=3),
            "as deep in it is teacher.block=1",
        ),
        (
            lambda: tinymim(vit(16), vit(24), relation={"heads": 3}),
            "heads=2 or 4 would do for",
        ),
        (lambda: tinymim(vit(16, image_size=32), vit(24)), "17 tokens and the teacher 5"),
        (lambda: tinymim(vit(16, class_token=False), vit(24)), "with 0 class or register tokens"),
        (lambda: tinymim(vit(16), vit(24, class_token=False)), "or set student.class_token=false"),
        (lambda: tinymim(vit(16), hooked(reg_tokens=4)), "and the teacher with 5, but tokens"),
        (lambda: tinymim(vit(16, image_size=32), hooked()), "17 tokens and the teacher 5"),
        (
            lambda: tinymim(vit(16, class_token=False), vit(24), target="class_token"),
            "the student has no class token",
        ),
        (lambda: build("tinymim", vit(16)), "needs a teacher"),
        (lambda: build("mae", vit(16, class_token=False)), "class token"),
    ],
)
def test_what_does_not_fit_is_refused(build, part):
    with pytest.raises(UserError) as error:
        build()
    assert part in str(error.value)


def test_a_teacher_of_another_input_size_sees_a_resized_picture(batch):
    torch.manual_seed(0)
    teacher = vit(24, image_size=32, patch_size=16)
    method = tinymim(vit(16), teacher)
    seen = []
    original = teacher.tap
    teacher.tap = lambda images, *a, **k: (seen.append(images.shape), original(images, *a, **k))[1]
    assert torch.isfinite(method(batch).total)
    assert seen == [(3, 3, 32, 32)]


def test_the_last_block_of_24_can_be_asked_for():
    """As every teacher in a chain but the first: its own last block was trained."""
    method = tinymim(vit(16), vit(24, depth=24), block="last")
    assert method.target.taps[1] == Tap("qkv", 24)


@pytest.mark.parametrize("target", ["relation", "feature"])
def test_the_last_block_drops_no_path(target):
    """It is the one that is matched (spec 4.5)."""
    method = tinymim(vit(16, depth=4), vit(24), target=target, drop_path=0.3)
    assert method.student.drop_path_rates == [0.3, 0.3, 0.3, 0.0]
    taught = tinymim(vit(16), vit(24, depth=3), target=target, teacher_drop_path=0.2)
    assert taught.teacher.drop_path_rates == [0.2, 0.2, 0.2]
