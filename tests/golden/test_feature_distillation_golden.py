"""Feature distillation against the published code: loss, whitening, every target, whole steps."""

import pytest
import torch
from names import batch_of, part
from test_student_vit_golden import student

from vistill.config.methods import FeatureDistillationConfig
from vistill.losses.distances import smooth_l1
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.backbone import Backbone, Normalization
from vistill.models.files.beit import beit_names
from vistill.models.files.checkpoints import vit_from_state
from vistill.models.vit import VisionTransformer
from vistill.targets.whitening import whiten
from vistill.training.optim import pretrain_groups
from vistill.training.schedule import learning_rate


def linear(state: dict, prefix: str) -> torch.nn.Linear:
    """A linear layer with the weights of a 1×1 convolution."""
    weight = state[f"{prefix}.weight"]
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict(
        {"weight": weight.reshape(weight.shape[:2]), "bias": state[f"{prefix}.bias"]}
    )
    return layer


def test_loss_whitening_and_projector(golden):
    case = golden("loss_whiten_projector", "fd")
    close = {"atol": case.atol, "rtol": case.rtol}
    for beta in case.config["betas"]:
        prediction = case.inputs["pred"].clone().requires_grad_()
        loss = smooth_l1(prediction, case.inputs["target"], beta)
        loss.backward()
        torch.testing.assert_close(loss, case.output[f"loss_beta{beta}"], **close)
        torch.testing.assert_close(prediction.grad, case.output[f"dpred_beta{beta}"], **close)
    whitened = whiten(case.inputs["raw_teacher"])
    torch.testing.assert_close(whitened, case.output["whitened_raw"], **close)
    raw = case.inputs["raw_student"].clone().requires_grad_()
    projector = linear(case.state, "decoder.0")
    projected = projector(raw)
    torch.testing.assert_close(projected, case.output["projected"], **close)
    loss = smooth_l1(projected, whitened)
    loss.backward()
    torch.testing.assert_close(loss, case.output["loss_projected"], **close)
    torch.testing.assert_close(raw.grad, case.output["d_raw_student"], **close)
    torch.testing.assert_close(
        projector.weight.grad, case.grad["decoder.0.weight"][..., 0], **close
    )
    torch.testing.assert_close(projector.bias.grad, case.grad["decoder.0.bias"], **close)


def whole_method(case) -> FeatureDistillation:
    """Student, projector and teacher of a published training step."""
    resolved, model = case.config["resolved"]["MODEL"]["VIT"], case.config["teacher_model"]
    config = {
        "img_size": case.config["resolved"]["IMG_SIZE"],
        "patch_size": resolved["PATCH_SIZE"],
        "embed_dim": resolved["EMBED_DIM"],
        "depth": resolved["DEPTH"],
        "num_heads": resolved["NUM_HEADS"],
        "init_values": resolved["INIT_VALUES"],
        "use_abs_pos_emb": resolved["USE_APE"],
        "use_shared_rel_pos_bias": resolved["USE_SHARED_RPB"],
    }
    heads = model.get("num_heads", model.get("heads"))
    teacher = vit_from_state(part(case.state, "feature_model"), "the case", heads)
    method = FeatureDistillation(
        student(config, part(case.state, "encoder")), teacher.to(case.inputs["image0"].dtype)
    )
    method.projector = linear(case.state, "decoder.0")
    return method


@pytest.mark.parametrize("name", ["fd_step_dino_f64", "fd_step_clip"])
def test_training_steps(golden, name):
    case = golden(name, "fd")
    check_training_steps(case, whole_method(case))


def published_names(method) -> dict[str, torch.nn.Parameter]:
    """Parameters of a method under the published names."""
    found = beit_names(dict(method.named_parameters()))
    found = {k.replace("student.", "encoder.", 1): p for k, p in found.items()}
    return {k.replace("projector.", "decoder.0.", 1): p for k, p in found.items()}


def unit_pixels(images: torch.Tensor) -> torch.Tensor:
    """What was normalised by ImageNet's statistics, in [0, 1] where it was a picture."""
    usual = Normalization()
    std, mean = (images.new_tensor(v).view(1, 3, 1, 1) for v in (usual.std, usual.mean))
    return images * std + mean


def check_training_steps(case, method, names=published_names, no_decay=("cls_token", "pos_embed")):
    """Targets, predictions, losses, gradients and AdamW steps of a published run."""
    config, settings = case.config, case.config["resolved"]["TRAIN"]
    close = {"atol": case.atol, "rtol": case.rtol}
    parameters = names(method)
    groups = pretrain_groups(method, settings["WEIGHT_DECAY"], no_decay)
    by_identity = {id(p): name for name, p in parameters.items()}
    expected = {g["weight_decay"]: set(g["params"]) for g in case.info["param_groups"]}
    found = {g["weight_decay"]: {by_identity[id(p)] for p in g["params"]} for g in groups}
    assert found == expected

    scale = config["resolved"]["BATCH_PER_GPU"] * config["world_size"] / 512
    optimizer = torch.optim.AdamW(groups, betas=settings["OPTIMIZER"]["BETAS"], eps=1e-8)
    for step in range(config["steps"]):
        # The published schedule lags behind by one step.
        rate = learning_rate(
            max(step - 1, 0) / config["iters_per_epoch"],
            lr=settings["BASE_LR"] * scale,
            min_lr=settings["MIN_LR"] * scale,
            warmup_lr=settings["WARMUP_LR"] * scale,
            warmup_epochs=settings["WARMUP_EPOCHS"],
            epochs=settings["EPOCHS"],
        )
        assert rate == pytest.approx(case.output["lrs"][step].item(), rel=1e-6)
        for group in groups:
            group["lr"] = rate
        images = case.inputs[f"image{step}"]
        batch = batch_of(unit_pixels(images))
        method.ours.images = lambda _, images=images: images
        with torch.no_grad():
            target = method.target_of(method.features(batch))
        losses = method.compare(batch, target)
        optimizer.zero_grad()
        losses.total.backward()
        if step == 0:
            torch.testing.assert_close(target, case.output["target"], **close)
            torch.testing.assert_close(method.predict(batch), case.output["pred"], **close)
            for key, value in case.grad.items():
                gradient = parameters[key].grad
                torch.testing.assert_close(gradient.reshape(value.shape), value, **close, msg=key)
        torch.testing.assert_close(
            losses.total.detach(), case.output["losses"][step].to(images), **close
        )
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), settings["CLIP_GRAD"])
        torch.testing.assert_close(norm, case.output["grad_norms"][step].to(images), **close)
        optimizer.step()
    for key, value in part(
        {k.replace("/", ".", 1): v for k, v in case.output.items()}, "after"
    ).items():
        torch.testing.assert_close(
            parameters[key].detach().reshape(value.shape), value, **close, msg=key
        )


class Fixed(Backbone):
    """A backbone that says the same tokens and class scores to every picture."""

    def __init__(self, tokens, logits=None):
        super().__init__()
        self.tokens, self.logits = tokens, logits
        self.width, self.depth, self.num_prefix_tokens = tokens.shape[2], 1, 1
        self.image_size, self.normalization = (8, 8), Normalization()
        self.taps = frozenset(("norm", "logits"))
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def tap(self, images, taps, *, visible=None, drop_path_noise=None):
        return {tap: self.logits if tap.kind == "logits" else self.tokens for tap in taps}


KINDS = [
    ({}, "target_full", "loss_full"),
    ({}, "whiten_token_ln", None),
    ({"target": "class_token"}, "target_cls", "loss_cls"),
    ({"target": "patches"}, "target_patch", "loss_patch"),
    ({"target": "pooled"}, "target_gap", "loss_gap"),
    ({"target": "logits"}, None, "loss_logits_kl"),
    ({"whitening": "channel"}, "whiten_channel", None),
    ({"whitening": "l2"}, "whiten_l2", None),
    ({"whitening": "none"}, "whiten_none", None),
    ({"loss": "mse"}, None, "loss_mse"),
    ({"loss": "l1"}, None, "loss_l1"),
    ({"loss": "cosine"}, None, "loss_cosine"),
]


@pytest.mark.parametrize(("options", "target_name", "loss_name"), KINDS)
def test_target_kinds(golden, options, target_name, loss_name):
    case = golden("target_kinds", "fd")
    close = {"atol": case.atol, "rtol": case.rtol}
    teacher = Fixed(case.inputs["teacher_normed"], case.inputs["teacher_logits"])
    config = FeatureDistillationConfig(**options)
    method = FeatureDistillation(Fixed(case.inputs["student"]), teacher, config)
    head = "logit_head" if options.get("target") == "logits" else "decoder.0"
    method.projector = linear(case.state, head)
    batch = batch_of(torch.zeros(3, 3, 8, 8))
    target = method.target_of(method.features(batch))
    if target_name is not None:
        torch.testing.assert_close(target, case.output[target_name], **close)
    if loss_name is not None:
        loss = method.compare(batch, target).total
        torch.testing.assert_close(loss, case.output[loss_name], **close)


def test_every_target_kind_is_tested(golden):
    tested = {name for _, *names in KINDS for name in names if name}
    assert tested == set(golden("target_kinds", "fd").output)


def test_drop_path_rates(golden):
    expected = golden("init_statistics", "fd").info["drop_path_rates_rate03_depth4"]
    sizes = {"image_size": 8, "patch_size": 8, "embed_dim": 8, "num_heads": 1}
    student = VisionTransformer(**sizes, depth=4)
    FeatureDistillation(student, VisionTransformer(**sizes, depth=1), drop_path=0.3)
    assert student.drop_path_rates == pytest.approx(expected, rel=1e-6)
