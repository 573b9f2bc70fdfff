"""TinyMIM against the published code: relations, losses, whole steps, every target tensor."""

import pytest
import torch
from names import AS_IT_IS, batch_of, part, published_mask

from vistill.augment.jitter import apply_color_jitter
from vistill.batch import Losses
from vistill.config.methods import TinyMIMConfig
from vistill.losses.distances import smooth_l1, softmax_kl
from vistill.losses.relation import relation_kl_from_logits, relation_logits, relation_loss
from vistill.methods.tinymim import TinyMIM
from vistill.models.backbone import Tap
from vistill.models.vit import VisionTransformer
from vistill.targets.whitening import whiten
from vistill.tokens.masks import random_mask


def vit(config: dict, state: dict, **changes) -> VisionTransformer:
    model = VisionTransformer(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config.get("depth", 12),
        num_heads=changes.get("num_heads", config["num_heads"]),
        mlp_ratio=config["mlp_ratio"],
    )
    encoder = {k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token"))}
    model.to(next(iter(state.values())).dtype).load_state_dict(encoder, strict=True)
    return model


def relations(model: VisionTransformer, images, block: int, heads: int) -> dict:
    tap = Tap("qkv", block)
    q, k, v = model.tap(images, [tap])[tap].unbind(2)
    return {
        "qk": relation_logits(q, k, heads).softmax(-1),
        "vv": relation_logits(v, v, heads).softmax(-1),
    }


@pytest.mark.parametrize("suffix", ["", "_float64"])
def test_teacher_relations(golden, suffix):
    case = golden(f"tinymim_teacher_relations{suffix}")
    config = case.config["model"]
    model = vit(config, case.state).eval()
    block = config["intermediate"]
    found = relations(model, case.inputs["imgs"], block, config["num_heads"])
    found["tokens_block0"] = model.embed(case.inputs["imgs"])
    previous = Tap("block", block - 1)
    found["target_block_input"] = model.tap(case.inputs["imgs"], [previous])[previous]
    for key, expected in case.output.items():
        torch.testing.assert_close(found[key], expected, atol=case.atol, rtol=case.rtol)


def test_student_relations(golden):
    case = golden("tinymim_student_relations")
    config = case.config["model"]
    model = vit(config, case.state).eval()
    found = relations(model, case.inputs["imgs"], 12, config["last_heads"])
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol)


def test_sequential_teacher_is_split_again(golden):
    case = golden("tinymim_sequential_teacher")
    model = vit(case.config["student"], case.state).eval()
    found = relations(model, case.inputs["imgs"], 12, case.config["teacher_heads"])
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol)


@pytest.mark.parametrize("suffix", ["", "_float64"])
def test_relation_loss_from_logits(golden, suffix):
    case = golden(f"tinymim_relation_loss{suffix}")
    total = 0.0
    for pair in ("qk", "vv"):
        student = case.inputs[f"student_{pair}_logits"].requires_grad_()
        loss = relation_kl_from_logits(student, case.inputs[f"teacher_{pair}_logits"])
        torch.testing.assert_close(
            loss, case.output[f"{pair}_loss"], atol=case.atol, rtol=case.rtol
        )
        loss.backward()
        torch.testing.assert_close(
            student.grad, case.grad[f"student_{pair}_logits"], atol=case.atol, rtol=case.rtol
        )
        total = total + loss.detach()
    torch.testing.assert_close(total, case.output["total"], atol=case.atol, rtol=case.rtol)


def build_tinymim(case, **options) -> TinyMIM:
    teacher_config, student_config = case.config["teacher"], case.config["student"]
    student = vit(student_config, part(case.state, "student"))
    teacher = vit(teacher_config, part(case.state, "teacher"))
    student.normalization = teacher.normalization = AS_IT_IS
    return TinyMIM(
        student,
        teacher,
        TinyMIMConfig(relation={"heads": student_config["last_heads"]}, **options),
        block=teacher_config["intermediate"],
        drop_path=student_config["drop_path"],
    )


def whole_step(method: TinyMIM, inputs: dict) -> Losses:
    """`method(batch)` on given views, drop path noise and mask instead of drawn ones."""
    method.student_view = lambda _: batch_of(inputs["student_view"])
    method.ours.draws = lambda _: inputs.get("uniform")
    if "noise" in inputs:
        method.mask = lambda _: random_mask(inputs["noise"], method.config.mask_ratio)
    return method(batch_of(inputs["teacher_view"]))


@pytest.mark.parametrize("kind", ["droppath", "nodrop", "float64"])
def test_whole_step(golden, kind):
    case = golden(f"tinymim_total_step_{kind}")
    method = build_tinymim(case)
    losses = whole_step(method, case.inputs)
    found = {"qk_loss": losses.terms["qk"], "vv_loss": losses.terms["vv"], "total": losses.total}
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol)
    losses.total.backward()
    parameters = dict(method.student.named_parameters())
    for key, expected in part(case.grad, "student").items():
        torch.testing.assert_close(
            parameters[key].grad, expected, atol=case.atol, rtol=case.rtol, msg=key
        )
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == set(case.info["grad_none"])


def test_masked_relation(golden):
    case = golden("reference_masked_relation")
    case.config["student"]["drop_path"] = 0.0
    method = build_tinymim(case, input="masked", mask_ratio=case.config["mask_ratio"])
    mask = random_mask(case.inputs["noise"], case.config["mask_ratio"])
    assert torch.equal(published_mask(mask)["mask"], case.output["mask"])
    losses = whole_step(method, case.inputs)
    found = {"qk_loss": losses.terms["qk"], "vv_loss": losses.terms["vv"], "total": losses.total}
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol)


def test_target_definitions(golden):
    case = golden("distill_target_definitions")
    config, block = case.config["mae"], case.config["block_1based"]
    # In fp32 the rounding of both sides adds up to just over the tolerance of the largest logits.
    model = vit(config, {name: tensor.double() for name, tensor in case.state.items()}).eval()
    images = case.inputs["imgs"].double()
    depth, heads = config["depth"], config["num_heads"]
    taps = {
        "block_input": Tap("block", block - 1),
        "attention_feature_before_residual": Tap("attention", block),
        "attention_feature_after_residual": Tap("attention_residual", block),
        "ffn_feature_before_residual": Tap("ffn", block),
        "block_feature": Tap("block", block),
        "output_feature": Tap("block", depth),
        "normed_output": Tap("norm", depth),
    }
    qkv = Tap("qkv", block)
    signals = model.tap(images, [*taps.values(), qkv])
    found = {name: signals[tap] for name, tap in taps.items()}
    found["query"], found["key"], found["value"] = signals[qkv].unbind(2)
    for name, (a, b) in {
        "qk": ("query", "key"), "qq": ("query", "query"),
        "kk": ("key", "key"), "vv": ("value", "value"),
    }.items():  # fmt: skip
        found[f"{name}_logits"] = relation_logits(found[a], found[b], heads)
        found[f"{name}_prob"] = found[f"{name}_logits"].softmax(-1)
    for key, expected in case.output.items():
        torch.testing.assert_close(
            found[key], expected, atol=case.atol, rtol=case.rtol, check_dtype=False
        )


def test_class_token_and_feature_losses(golden):
    case = golden("reference_cls_feature_losses")
    linear = torch.nn.functional.linear
    close = {"atol": case.atol, "rtol": case.rtol}
    projected = linear(
        case.inputs["student_cls"], case.state["cls_proj.weight"], case.state["cls_proj.bias"]
    )
    torch.testing.assert_close(
        softmax_kl(projected, case.inputs["teacher_cls"]), case.output["class_token_loss"], **close
    )
    target = whiten(case.inputs["teacher_feature"])
    torch.testing.assert_close(target, case.output["whitened_target"], **close)
    projected = linear(
        case.inputs["student_feature"], case.state["feat_proj.weight"], case.state["feat_proj.bias"]
    )
    torch.testing.assert_close(smooth_l1(projected, target), case.output["feature_loss"], **close)
    torch.testing.assert_close(
        smooth_l1(case.inputs["student_relation_logits"], case.inputs["teacher_relation_logits"]),
        case.output["relation_loss_no_softmax"],
        **close,
    )


def test_student_view_jitter(golden):
    case = golden("augment_two_view")
    crop = case.output["crop_u8"]
    if crop.shape[-1] == 3:
        crop = crop.permute(2, 0, 1)
    order = [i for i in case.info["jitter_order"] if i != 3]
    factors = [case.info[k] for k in ("brightness", "contrast", "saturation")]
    jittered = apply_color_jitter(
        crop[None].float() / 255, torch.tensor([factors]), torch.tensor([order])
    )
    normalization = VisionTransformer(embed_dim=8, depth=1, num_heads=1).normalization
    torch.testing.assert_close(
        normalization(jittered)[0],
        case.output["student_view"].reshape(jittered.shape[1:]),
        atol=case.atol,
        rtol=case.rtol,
    )


def test_chunked_loss_equals_the_plain_one():
    torch.manual_seed(0)
    student = [torch.randn(3, 7, 12, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    teacher = [torch.randn(3, 7, 20, dtype=torch.float64) for _ in range(2)]
    expected = relation_kl_from_logits(relation_logits(*student, 4), relation_logits(*teacher, 4))
    wanted = torch.autograd.grad(expected, student)
    found = relation_loss(tuple(student), tuple(teacher), 4, chunk_bytes=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, student), wanted)
