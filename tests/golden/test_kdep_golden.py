"""KDEP's networks and whole training steps against the published code."""

import pytest
import torch
from kdep_models import given_svd, mobilenet, resnet
from names import part
from torch import nn

from vistill.batch import Batch
from vistill.config.methods import KDEPConfig
from vistill.config.optim import OptimConfig
from vistill.heads.projector import conv1x1
from vistill.losses.distances import mse
from vistill.methods.kdep import KDEP
from vistill.methods.unreached import freeze_unreached
from vistill.models.backbone import Normalization, Tap
from vistill.targets.scaling import power_temperature
from vistill.training.optim import build_optimizer, pretrain_groups, set_lr
from vistill.training.schedule import learning_rate

MAP, POOLED = Tap("map", 0), Tap("pooled", 0)


def close(got, wanted, case, **tolerance):
    bounds = {"atol": case.atol, "rtol": case.rtol} | tolerance
    torch.testing.assert_close(torch.as_tensor(got).to(wanted.dtype), wanted, **bounds)


def normalised(model, image, dtype=torch.float32):
    return model.normalization((image.to(dtype) / 255).clamp(0, 1))


def sizes(config, prefix=""):
    return config[f"{prefix}layers"], config[f"{prefix}width_div"]


def test_student_forward(golden):
    case = golden("student_forward_basic", "kdep")
    model = resnet(case.state, case.config["block"], *sizes(case.config)).eval()
    images = normalised(model, case.inputs["image_u8"])
    stats = torch.stack([images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))])
    assert stats.shape == case.output["normalized_input_mean_std"].shape
    with torch.no_grad():
        found = model.tap(images, [MAP, POOLED])
        close(found[MAP], case.output["f4_pre_relu"], case)
        close(found[POOLED], case.output["feat"], case)
        close(model.module.fc(found[POOLED]), case.output["logits"], case)
        close(model.pooled(images), case.output["downstream_feat_post_relu"], case)
        close(model.module(images), case.output["downstream_logits_post_relu"], case)
        close(model.train().tap(images, [POOLED])[POOLED], case.output["feat_train"], case)
    close(model.module.bn1.running_mean, case.output["bn1_running_mean_after"], case)
    close(model.module.bn1.running_var, case.output["bn1_running_var_after"], case)


@torch.no_grad()
def test_mobilenet_forward(golden):
    case = golden("mobilenet_forward_0", "kdep")
    image = case.inputs["image_u8"]
    model = mobilenet(
        case.state, case.config["width_mult"], case.config["classes"], image.shape[-1]
    ).eval()
    images = normalised(model, image)
    found = model.tap(images, [POOLED])[POOLED]
    close(found, case.output["feat"], case)
    close(model.module.classifier[1](found), case.output["logits"], case)
    close(model.module(images), case.output["downstream_logits_relu6"], case)


def build_kdep(case, student_state, teacher_state, **options):
    config = case.config
    student = resnet(student_state, config["s_block"], *sizes(config, "s_"))
    teacher = resnet(teacher_state, "bottleneck", *sizes(config, "t_"))
    method = KDEP(student, teacher, KDEPConfig(color_jitter=None, lighting_std=0, **options))
    method.maps["feature"].fit(given_svd(teacher_state))
    return method


def batch_of(pixels):
    ids = torch.arange(len(pixels))
    return Batch(pixels=pixels, seeds=ids, ids=ids)


def test_teacher_forward(golden):
    case = golden("teacher_forward_0", "kdep")
    teacher = resnet(case.state, "bottleneck", *sizes(case.config, "t_"))

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, case.config["d_s"], 1, stride=8)

        def forward(self, x):
            return self.conv(x)

    from vistill.models.adapters.any_cnn import PooledBackbone

    student = PooledBackbone(Narrow(), image_size=224)
    method = KDEP(student, teacher, KDEPConfig(color_jitter=None, lighting_std=0))
    method.maps["feature"].fit(given_svd(case.state))
    batch = batch_of(case.inputs["image_u8"])
    pooled = method.features(batch)
    close(pooled, case.output["pooled"], case)
    close(method.maps["feature"].aligned(pooled), case.output["projected"], case)
    target = method.target_of(method.features(batch))["feature"]
    close(target, case.output["target"], case, atol=5e-3)
    close(power_temperature(case.output["projected"]), case.output["target"], case)
    assert bool(target.requires_grad) == bool(case.output["requires_grad"])


def test_conv1x1(golden):
    case = golden("align_conv1x1_0", "kdep")
    student = resnet(case.state, case.config["block"], *sizes(case.config))
    aligner = conv1x1(student.width, case.config["emb_dim"])
    aligner[0].load_state_dict(part(case.state, "emb"))
    aligner[1].load_state_dict(part(case.state, "l2norm"))
    images = normalised(student, case.inputs["image_u8"])
    both = nn.ModuleList([student, aligner]).eval()
    with torch.no_grad():
        close(aligner(student.pooled(images)), case.output["feat_eval"], case)
    both.train()
    found = aligner(student.pooled(images))
    close(found.detach(), case.output["feat_train"], case)
    loss = mse(found, case.inputs["target"])
    loss.backward()
    close(loss.detach(), case.output["loss_train"], case)
    close(aligner[1].running_mean, case.output["l2norm_running_mean_after"], case)
    close(aligner[1].running_var, case.output["l2norm_running_var_after"], case)
    gradients = {f"emb.{n}": p.grad for n, p in aligner[0].named_parameters()}
    gradients |= {f"l2norm.{n}": p.grad for n, p in aligner[1].named_parameters()}
    gradients |= {n: p.grad for n, p in student.module.named_parameters()}
    for name, gradient in case.grad.items():
        close(gradients[name], gradient, case)


@pytest.mark.parametrize("name", ["train_step_kdep_f64", "train_step_kdep_f32"])
def test_training_steps(golden, name):
    case = golden(name, "kdep")
    config = case.config
    dtype = torch.float64 if config["dtype"] == "f64" else torch.float32
    states = part(case.state, "student"), part(case.state, "teacher")
    method = build_kdep(case, *states, weight=config["loss_w"]).train()
    pixels = case.inputs["image_u8"].to(dtype) / 255
    # The published normalisation holds its constants in fp32, whatever the dtype of the case.
    published = Normalization()
    constants = [tuple(torch.tensor(c).tolist()) for c in (published.mean, published.std)]
    method.student.normalization = method.teacher.normalization = Normalization(*constants)
    net = method.student.module
    frozen = freeze_unreached(method, batch_of(pixels[0]))
    assert frozen == ["student.module.fc.weight", "student.module.fc.bias"]
    optim = OptimConfig(
        optimizer="sgd", schedule="step", weight_decay=config["weight_decay"], decay_biases=True
    )
    groups = pretrain_groups(method, optim.weight_decay, decay_biases=True)
    optimizer = build_optimizer([group for group in groups if group["params"]], optim)
    assert len(optimizer.param_groups) == 1
    for step in range(config["steps"]):
        lr = learning_rate(
            step,
            lr=config["lr"],
            min_lr=0.0,
            warmup_epochs=0,
            epochs=90,
            schedule="step",
            step_epochs=config["step_lr"],
        )
        close(lr, case.output[f"lr_step{step}"].double(), case)
        set_lr(optimizer, lr)
        loss = method(batch_of(pixels[step])).total
        close(loss.detach(), case.output[f"loss_step{step}"], case)
        optimizer.zero_grad()
        loss.backward()
        parameters = dict(net.named_parameters())
        for key, value in part(case.grad, f"step{step}").items():
            close(parameters[key].grad, value, case)
        optimizer.step()
        for key, value in part(case.output, f"param_after_step{step}").items():
            close(parameters[key].detach(), value, case)
        buffers = dict(net.named_buffers())
        for key, value in part(case.output, f"buffer_after_step{step}").items():
            close(buffers[key], value, case)


def test_schedules(golden):
    for expected in golden("lr_schedules", "kdep").info:
        config = dict(expected["config"])
        kind = expected["schedule"].split()[0]
        if kind == "step":
            config["step_epochs"] = config.pop("step")
        for epoch, rate in expected["lr_by_epoch"].items():
            for within in (0.0, 0.75):
                got = learning_rate(
                    int(epoch) + within, min_lr=0.0, warmup_epochs=0, schedule=kind, **config
                )
                assert got == pytest.approx(rate, rel=1e-9, abs=1e-12)


def test_parameter_groups(golden):
    (expected,) = golden("param_groups", "kdep").info[:1]
    shapes = expected["shapes"]
    net = nn.Module()
    for name in expected["names_in_order"]:
        *path, last = name.split(".")
        owner = net
        for step in path:
            if step not in owner._modules:
                owner.add_module(step, nn.Module())
            owner = owner._modules[step]
        owner.register_parameter(last, nn.Parameter(torch.zeros(shapes[name])))
    optim = OptimConfig(optimizer="sgd", weight_decay=expected["weight_decay"], decay_biases=True)
    groups = pretrain_groups(net, optim.weight_decay, decay_biases=True)
    optimizer = build_optimizer([group for group in groups if group["params"]], optim)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == len(expected["names_in_order"])
    for key in ("momentum", "nesterov", "dampening", "weight_decay"):
        assert group[key] == expected[key]
