"""Swin transformers against the published code: EsViT's teacher, the SwinV2 student, transfer."""

import pytest
import torch
from names import part
from test_fd_transfer_golden import check_groups, slashed
from test_feature_distillation_golden import check_training_steps, linear
from test_teachers_golden import check_targets

from vistill.config.finetune import FineTuneConfig
from vistill.evaluation.classifier import build_classifier, soft_cross_entropy
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.backbone import Tap
from vistill.models.build import create_backbone
from vistill.models.files.checkpoints import backbone_from_state
from vistill.models.swin import NO_DECAY, SwinBackbone
from vistill.training.optim import pretrain_groups


def published(name: str) -> str:
    """Published name of a parameter of a method or of a classifier."""
    words = name.replace("cpb_mlp", "rpe_mlp").replace("projector.", "decoder.0.").split(".")
    if "module" in words:
        words = words[words.index("module") + 1 :]
    if "downsample" in words:
        words[1] = str(int(words[1]) - 1)
    return ".".join(words)


def swin(config: dict, version: int) -> SwinBackbone:
    names = ("patch_size", "embed_dim", "depths", "num_heads", "window_size")
    sizes = {name: config[name] for name in names}
    return SwinBackbone(version=version, image_size=config["img_size"], **sizes)


def stage(model: SwinBackbone, images: torch.Tensor, number: int) -> torch.Tensor:
    """What the published code calls the output of a stage: merged already, but for the last."""
    tap = Tap("block", sum(model.depths[: number + 1]))
    tokens = model.tap(images, [tap])[tap]
    if number + 1 == len(model.depths):
        return tokens
    side = round(tokens.shape[1] ** 0.5)
    return (
        model.module.layers[number + 1].downsample(tokens.unflatten(1, (side, side))).flatten(1, 2)
    )


def test_esvit_teacher(golden):
    case = golden("teacher_esvit_swin", "fd")
    teacher = backbone_from_state(case.state, "the case").eval()
    assert teacher.build["args"] == swin(case.config["model"], 1).build["args"]
    images = case.inputs["image"]
    for number in (0, 1):
        expected = case.output[f"stage.{number}"]
        found = stage(teacher, images, number)
        torch.testing.assert_close(found, expected, atol=case.atol, rtol=case.rtol)
        attention = teacher.module.layers[number].blocks[0].attn
        index = case.output[f"relative_position_index.{number}.0"]
        assert torch.equal(attention.relative_position_index, index)
    mask = teacher.module.layers[0].blocks[1].attn_mask
    assert torch.equal(mask, case.output["attn_mask.0.1"])
    check_targets(case, teacher, images, swin(case.config["model"], 2))


def test_a_teacher_cut_after_a_stage(golden):
    case = golden("teacher_esvit_swin", "fd")
    whole = backbone_from_state(case.state, "the case").eval()
    cut = backbone_from_state(case.state, "the case", stages=1).eval()
    images = case.inputs["image"]
    torch.testing.assert_close(
        cut.tap(images, [Tap("block", 2)])[Tap("block", 2)],
        whole.tap(images, [Tap("block", 2)])[Tap("block", 2)],
    )
    assert cut(images).shape == (2, 64, 16)
    assert torch.equal(cut.module.norm.weight, torch.ones(16))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_swinv2_student(golden):
    case = golden("student_swinv2", "fd")
    model = backbone_from_state(case.state, "the case").train()
    assert model.build["args"] == swin(case.config["model"], 2).build["args"]
    images, close = case.inputs["image"], {"atol": case.atol, "rtol": case.rtol}
    features = model(images)
    torch.testing.assert_close(features, case.output["features"], **close)
    for number in (0, 1):
        torch.testing.assert_close(
            stage(model, images, number), case.output[f"stage.{number}"], **close
        )
        attention = model.module.layers[number].blocks[0].attn
        torch.testing.assert_close(
            attention.relative_coords_table, case.output[f"relative_coords_table.{number}"], **close
        )
        index = case.output[f"relative_position_index.{number}"]
        assert torch.equal(attention.relative_position_index, index)
    (features * case.inputs["cotangent"]).sum().backward()
    gradients = {published(k): p.grad for k, p in model.named_parameters()}
    for key, value in case.grad.items():
        assert relative_error(gradients[key], value) < 0.005, key


def test_training_steps(golden):
    case = golden("fd_step_esvit_swin", "fd")
    method = FeatureDistillation(
        backbone_from_state(part(case.state, "encoder"), "the student"),
        backbone_from_state(part(case.state, "feature_model"), "the teacher"),
    )
    method.projector = linear(case.state, "decoder.0")

    def names(trained):
        parameters = {published(k): p for k, p in trained.named_parameters()}
        return {k if k.startswith("decoder") else f"encoder.{k}": p for k, p in parameters.items()}

    check_training_steps(case, method, names, NO_DECAY)


def test_finetuning(golden):
    case = golden("finetune_swinv2", "fd")
    state = slashed(case.inputs, "ckpt/")
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    options = FineTuneConfig(layer_decay=0.8, drop_path=0.0)
    classifier = build_classifier(
        backbone_from_state(encoder, "the case"),
        6,
        image_size=32,
        pool="avg",
        options=options,
        seed=0,
    )
    classifier.head.load_state_dict(part(case.state, "head"))
    names = {published(k): p for k, p in classifier.named_parameters()}
    for key, value in slashed(case.output, "loaded/").items():
        assert torch.equal(names[key], value)
    changed = {name for name in names if not name.startswith("head")}
    assert changed == set(case.info["changed_by_checkpoint"])
    check_groups(classifier, options, case.info["param_groups"], published)
    images, close = case.inputs["image"], {"atol": case.atol, "rtol": case.rtol}
    torch.testing.assert_close(classifier.features(images), case.output["pooled"], **close)
    logits = classifier.logits(images)
    torch.testing.assert_close(logits, case.output["logits"], **close)
    loss = soft_cross_entropy(logits, case.inputs["soft_target"])
    torch.testing.assert_close(loss, case.output["loss"], **close)
    loss.backward()
    for key, value in case.grad.items():
        torch.testing.assert_close(names[key].grad, value, **close, msg=key)


def small_swin(config: dict) -> SwinBackbone:
    options = dict(zip(config["opts"][::2], config["opts"][1::2], strict=True))
    names = ("PATCH_SIZE", "EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE")
    sizes = {name.lower(): options[f"MODEL.SWIN.{name}"] for name in names}
    return SwinBackbone(version=2, image_size=options["DATA.IMG_SIZE"], **sizes)


def test_pretrain_groups(golden):
    case = golden("groups_pretrain_swinv2", "fd")
    student = small_swin(case.config)
    model = torch.nn.ModuleDict({"decoder": torch.nn.ModuleList([torch.nn.Conv1d(4, 4, 1)])})
    model["encoder"] = student
    names = {}
    for name, p in model.named_parameters():
        inner = published(name)
        names[id(p)] = inner if name.startswith("decoder") else f"encoder.{inner}"
    found = [{names[id(p)] for p in g["params"]} for g in pretrain_groups(model, 0.05, NO_DECAY)]
    assert found == [set(case.info["no_decay"]), set(case.info["decay"])]


def test_finetune_groups(golden):
    case = golden("groups_finetune_swinv2", "fd")
    options = FineTuneConfig(layer_decay=0.8)
    method = build_classifier(
        small_swin(case.config), 1000, image_size=32, pool="avg", options=options, seed=0
    )
    check_groups(method, options, case.info, published)


def test_initial_weights(golden):
    expected = golden("init_statistics", "fd").info["swinv2"]
    torch.manual_seed(0)
    config = {"img_size": 64, "patch_size": 4, "embed_dim": 48, "depths": [2, 2]}
    model = swin(config | {"num_heads": [2, 4], "window_size": 4}, 2)
    parameters = {published(k): p.detach() for k, p in model.named_parameters()}
    for name, statistics in expected.items():
        values = parameters[name]
        if values.numel() > 1:
            spread = 0.03 + 2 / values.numel() ** 0.5
            close = pytest.approx(statistics["std"], rel=spread, abs=1e-9)
            assert values.std().item() == close, name
        assert values.mean().item() == pytest.approx(statistics["mean"], abs=2e-3), name


@pytest.mark.slow
def test_the_published_student_has_the_published_size():
    model = create_backbone("swinv2_base")
    assert model.build["args"]["window_size"] == 14
    assert (model.width, model.depth) == (1024, 24)
