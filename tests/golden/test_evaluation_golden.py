"""Fine-tuning, linear probe and mixup against the published code."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vistill.augment.mixing import Mix, apply_mix, smoothed_targets
from vistill.config.finetune import FineTuneConfig
from vistill.config.optim import OptimConfig
from vistill.evaluation.classifier import Classifier, build_classifier, soft_cross_entropy
from vistill.evaluation.linear_probe import ProbeHead
from vistill.models.vit import VisionTransformer
from vistill.training.lars import LARS
from vistill.training.optim import adamw, layer_decay_groups, set_lr
from vistill.training.schedule import learning_rate

HEAD = ("fc_norm.", "head.")
PLAIN = FineTuneConfig(
    drop_path=0.0, random_erasing=0.0, mixup=0.0, cutmix=0.0, label_smoothing=0.1
)


def vit(config: dict, num_heads: int | None = None) -> VisionTransformer:
    return VisionTransformer(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        embed_dim=config["embed_dim"],
        depth=config.get("depth", 12),
        num_heads=num_heads or config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
    )


def published_name(name: str) -> str:
    return name.removeprefix("student.")


def load(classifier: Classifier, state: dict) -> None:
    """Load the published state; only the norm that average pooling does not use may be missing."""
    classifier.to(next(iter(state.values())).dtype)
    renamed = {k if k.startswith(HEAD) else f"student.{k}": v for k, v in state.items()}
    missing, unexpected = classifier.load_state_dict(renamed, strict=False)
    assert not unexpected
    unused = {"student.norm.weight", "student.norm.bias"} if classifier.pool == "avg" else set()
    assert set(missing) == unused


def build(case, **options) -> Classifier:
    config = case.config
    classifier = build_classifier(
        vit(config),
        config["num_classes"],
        image_size=config["img_size"],
        pool="avg" if config["global_pool"] else "cls",
        options=PLAIN.model_copy(update=options),
        seed=0,
    )
    assert isinstance(classifier, Classifier)
    load(classifier, case.state)
    return classifier


@pytest.mark.parametrize("kind", ["gap", "cls", "gap_float64"])
def test_forward_losses_and_gradients(golden, kind):
    case = golden(f"finetune_forward_{kind}")
    classifier = build(case).eval()
    images, labels = case.inputs["imgs"], case.inputs["labels"]
    features = classifier.features(images)
    logits = classifier.head(features)
    smoothed = smoothed_targets(
        labels, case.config["num_classes"], case.config["smoothing"], logits.dtype
    )
    found = {
        "features": features,
        "logits": logits,
        "loss_ce": F.cross_entropy(logits, labels),
        "loss_label_smoothing": soft_cross_entropy(logits, smoothed),
        "loss_soft_target": soft_cross_entropy(logits, case.inputs["soft_targets"]),
    }
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol)
    found["loss_label_smoothing"].backward()
    parameters = {published_name(k): p for k, p in classifier.named_parameters()}
    for key, expected in case.grad.items():
        torch.testing.assert_close(
            parameters[key].grad, expected, atol=case.atol, rtol=case.rtol, msg=key
        )


def test_drop_path(golden):
    case = golden("finetune_drop_path")
    classifier = build(case, drop_path=case.config["drop_path_rate"]).train()
    assert classifier.student.drop_path_rates == case.info["rates"]
    logits = classifier.logits(case.inputs["imgs"], case.inputs["uniform"])
    torch.testing.assert_close(logits, case.output["logits"], atol=case.atol, rtol=case.rtol)


def test_train_steps(golden):
    case = golden("finetune_train_steps")
    config, close = case.config, {"atol": case.atol, "rtol": case.rtol}
    classifier = build(case).train()
    groups = layer_decay_groups(
        classifier,
        config["weight_decay"],
        config["layer_decay"],
        config["depth"],
        layer_of=classifier.student.parameter_layers().__getitem__,
    )
    optimizer = adamw(groups, OptimConfig(betas=(0.9, 0.999)))
    for step, (images, labels) in enumerate(
        zip(case.inputs["imgs"], case.inputs["labels"], strict=True)
    ):
        lr = learning_rate(
            config["epoch"] + step / config["iters"],
            lr=config["lr"],
            min_lr=config["min_lr"],
            warmup_epochs=config["warmup_epochs"],
            epochs=config["epochs"],
        )
        set_lr(optimizer, lr)
        largest = max(group["lr"] for group in optimizer.param_groups)
        assert largest == pytest.approx(float(case.output["lr"][step]), rel=1e-6)
        optimizer.zero_grad()
        targets = smoothed_targets(labels, config["num_classes"], config["smoothing"])
        loss = soft_cross_entropy(classifier.logits(images), targets)
        torch.testing.assert_close(loss, case.output["loss"][step].to(loss.dtype), **close)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(classifier.parameters(), torch.inf)
        torch.testing.assert_close(norm, case.output["grad_norm"][step].to(norm.dtype), **close)
        optimizer.step()
    parameters = {published_name(k): p.detach() for k, p in classifier.named_parameters()}
    width = config["embed_dim"]
    checked = set()
    for key, expected in case.output.items():
        if not key.startswith("param."):
            continue
        name, _, part = key.removeprefix("param.").partition(":")
        found = parameters[name]
        if part:
            found = found[:width] if part == "q" else found[-width:]
        torch.testing.assert_close(found, expected, **close, msg=key)
        checked.add(name)
    assert checked == {k for k in parameters if not k.startswith("norm.")}


def test_linear_probe_with_lars(golden):
    case = golden("linprobe_lars")
    config, close = case.config, {"atol": case.atol, "rtol": case.rtol}
    head = ProbeHead(config["dim"], config["classes"], seed=0)
    head.linear.load_state_dict({"weight": case.state["1.weight"], "bias": case.state["1.bias"]})
    optimizer = LARS(head.linear.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    head.train()
    for step in range(config["iters"]):
        loss = F.cross_entropy(head(case.inputs["features"][step]), case.inputs["labels"][step])
        torch.testing.assert_close(loss, case.output["loss"][step].to(loss.dtype), **close)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    found = {
        "weight": head.linear.weight,
        "bias": head.linear.bias,
        "running_mean": head.norm.running_mean,
        "running_var": head.norm.running_var,
        "eval_logits": head(case.inputs["features"][0]),
    }
    for key, value in found.items():
        torch.testing.assert_close(value.detach(), case.output[key], **close, msg=key)


@pytest.mark.parametrize("case_name", ["mixup_case_a", "mixup_case_b"])
def test_mixup_and_cutmix(golden, case_name):
    case = golden(case_name)
    cutmix = case.info["use_cutmix"]
    mix = Mix(
        torch.tensor(1.0 if cutmix else case.info["lam"]),
        torch.tensor(case.info["bbox"] if cutmix else [0, 0, 0, 0]),
    )
    targets = smoothed_targets(
        case.inputs["labels"], case.config["classes"], case.config["smoothing"]
    )
    images, targets = apply_mix(case.inputs["imgs"], targets, mix)
    torch.testing.assert_close(images, case.output["imgs"], atol=case.atol, rtol=case.rtol)
    torch.testing.assert_close(targets, case.output["targets"], atol=case.atol, rtol=case.rtol)


@pytest.mark.parametrize("kind", ["gap", "cls_resized"])
def test_transfer_of_a_student(golden, kind):
    case = golden(f"tinymim_transfer_{kind}")
    student, target = case.config["student"], case.config["vit"]
    fresh = {k.removeprefix("new."): v for k, v in case.state.items() if k.startswith("new.")}
    backbone = vit(student | {"depth": 12}, student["num_heads"])
    backbone.load_state_dict({k: v for k, v in case.state.items() if k not in fresh and
                              not k.startswith("new.")}, strict=True)  # fmt: skip
    classifier = build_classifier(
        backbone,
        target["num_classes"],
        image_size=target["img_size"],
        pool="avg" if target["global_pool"] else "cls",
        options=PLAIN.model_copy(update={"num_heads": target["num_heads"]}),
        seed=0,
    )
    assert isinstance(classifier, Classifier)
    _, unexpected = classifier.load_state_dict(fresh, strict=False)
    assert not unexpected
    assert set(fresh) == set(case.info["missing"])
    trained = {published_name(k) for k, p in classifier.named_parameters() if p.requires_grad}
    assert "pos_embed" in trained
    assert trained.isdisjoint(case.info["unexpected"])
    classifier.eval()
    found = {
        "pos_embed": classifier.student.pos_embed,
        "features": classifier.features(case.inputs["imgs"]),
        "logits": classifier.logits(case.inputs["imgs"]),
    }
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], atol=case.atol, rtol=case.rtol, msg=key)
