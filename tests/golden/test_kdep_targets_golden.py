"""KDEP's targets, losses and views against numbers of the published code."""

import pytest
import torch

from vistill.augment.lighting import apply_lighting
from vistill.losses import feature
from vistill.losses.baselines import logits_kl
from vistill.losses.distances import mse
from vistill.losses.flow import flow_mse
from vistill.models.backbone import Normalization
from vistill.targets.calibration import Calibration, canonical_signs
from vistill.targets.channels import interpolate, project, strongest_channels
from vistill.targets.moments import Moments, std_ratio
from vistill.targets.scaling import linear_std, power_temperature, rescale


def close(got, wanted, case):
    wanted = torch.as_tensor(wanted)
    got = torch.as_tensor(got).to(wanted.dtype)
    torch.testing.assert_close(got, wanted, atol=case.atol, rtol=case.rtol)


@pytest.mark.parametrize("name", ["svd_weights_f32", "svd_weights_f64"])
def test_svd_weights(golden, name):
    case = golden(name, "kdep")
    moments = Moments(case.config["D"])
    for batch in case.inputs["features"].split(case.config["batch"]):
        moments.add(batch)
    fitted, k = Calibration.of(moments), case.config["k"]
    assert list(fitted.basis.shape) == case.output["v_shape"].tolist()
    close(fitted.mean, case.output["feat_mean"], case)
    close(fitted.singular_values, case.output["singular_values"], case)
    close(fitted.basis, case.output["v_canonical"], case)
    close(fitted.basis[:, :k] @ fitted.basis[:, :k].T, case.output["projector_k"], case)
    close(fitted.direction_std, case.output["std_after_svd"], case)
    close(fitted.energy(k), case.output["energy_k"], case)


def test_align_svd(golden):
    case = golden("align_svd_0", "kdep")
    basis = case.state["svd_v"][:, : case.config["d_s"]]
    got = project(case.inputs["feature"], case.state["svd_mean"], basis)
    close(got, case.output["aligned"], case)


@pytest.mark.parametrize("name", ["align_interpolate_2048_512", "align_interpolate_64_40"])
def test_align_interpolate(golden, name):
    case = golden(name, "kdep")
    got = interpolate(case.inputs["feature"], case.config["d_s"], case.config["mode"])
    assert torch.equal(got, case.output["aligned"])
    index = case.output["index"].long()
    assert torch.equal(got, case.inputs["feature"][:, index])


def test_align_channels(golden):
    case = golden("align_channel_var_0", "kdep")
    moments = Moments(case.config["d_t"])
    moments.add(case.inputs["calibration"])
    fitted = Calibration.of(moments)
    close(fitted.std.square(), case.output["var"], case)
    index = strongest_channels(fitted.std, case.config["d_s"])
    assert torch.equal(index, case.output["index"][: case.config["d_s"]].long())
    close(case.inputs["feature"][:, index], case.output["aligned"], case)

    case = golden("align_channel_random_0", "kdep")
    got = case.inputs["feature"][:, case.inputs["index"].long()]
    assert torch.equal(got, case.output["aligned"])


@pytest.mark.parametrize("name", ["transform_pts_f32", "transform_pts_f64"])
def test_power_temperature(golden, name):
    case = golden(name, "kdep")
    for i, (temperature, exponent) in enumerate(case.config["T_exponent"]):
        n = float(exponent.removeprefix("1/"))
        got = power_temperature(case.inputs["feature"], temperature, n)
        close(got, case.output[f"pts_{i}"], case)


def test_scale_normalisation(golden):
    case = golden("transform_sn", "kdep")
    d_s, scale = case.config["d_s"], case.config["scale"]
    aligned = project(case.inputs["feature"], case.state["svd_mean"], case.state["svd_v"][:, :d_s])
    close(aligned, case.output["aligned"], case)
    # target_std = scale / sqrt(N - 1) and std = sigma / sqrt(N - 1), whatever N is
    root = (case.config["N"] - 1) ** 0.5
    std = case.state["singular_values"][:d_s] / root
    close(rescale(aligned, std, scale / root), case.output["sn"], case)


@pytest.mark.parametrize("variant", ["linear", "match"])
def test_std_matching(golden, variant):
    case = golden(f"transform_sm_{variant}", "kdep")
    d_s, sigma = case.config["d_s"], case.state["singular_values"]
    aligned = project(case.inputs["feature"], case.state["svd_mean"], case.state["svd_v"][:, :d_s])
    if variant == "linear":
        wanted = linear_std(sigma[:d_s], case.config["target_ratio"])
    else:
        wanted = case.state["orig_std"].sort(descending=True).values[:d_s]
    got = rescale(aligned, sigma[:d_s] / case.config["scale"], wanted)
    close(got, case.output["sm"], case)


def test_std_ratio(golden):
    case = golden("std_ratio", "kdep")
    features, d_s, scale = case.inputs["features"], case.config["d_s"], case.config["scale"]
    sigma, std = case.state["singular_values"], case.state["orig_std"]
    aligned = project(features, case.state["svd_mean"], case.state["svd_v"][:, :d_s])
    divisor = sigma[:d_s] / scale
    found = {
        "pre": features,
        "svd": aligned,
        "svd_pts": power_temperature(aligned),
        "svd_sn": rescale(aligned, sigma[:d_s], 500.0),
        "svd_sm_linear": rescale(
            aligned, divisor, linear_std(sigma[:d_s], case.config["target_ratio"])
        ),
        "svd_sm_match": rescale(aligned, divisor, std.sort(descending=True).values[:d_s]),
        "interp": interpolate(features, d_s),
    }
    for name, values in found.items():
        moments = Moments(values.shape[1])
        moments.add(values)
        got = Calibration.of(moments).std
        close(got, case.output[f"std_{name}"], case)
        close(std_ratio(got)[0], case.output[f"ratio_{name}"], case)


LOSSES = {
    "mse": mse,
    "l2norm": feature.normalized_mse,
    "exp_T16": feature.exponential_mse,
    "softmax_T4": feature.softmax_squared,
    "align_mse": feature.sign_aligned_mse,
}


@pytest.mark.parametrize("name", ["loss_feature_0_f32", "loss_feature_0_f64"])
@pytest.mark.parametrize("variant", LOSSES)
def test_feature_loss(golden, name, variant):
    case = golden(name, "kdep")
    student = case.inputs["student"].requires_grad_()
    loss = LOSSES[variant](student, case.inputs["teacher"])
    loss.backward()
    close(loss.detach(), case.output[f"loss_{variant}"], case)
    close(student.grad, case.output[f"dstudent_{variant}"], case)


def test_baseline_losses(golden):
    case = golden("loss_baselines", "kdep")
    logits, features = (
        [case.inputs[f"{kind}_{side}"] for side in "st"] for kind in ("logits", "feat")
    )
    share = case.config["threshold"]
    for name, function, (student, teacher) in (
        ("kl_T4.0", lambda s, t: logits_kl(s, t, 4.0), logits),
        ("kl_T1.0", lambda s, t: logits_kl(s, t, 1.0), logits),
        ("kl_mask", lambda s, t: logits_kl(s, t, 4.0, entropy_share=share), logits),
        ("angle", feature.angle, features),
        ("rkd", feature.relational, features),
    ):
        learner = student.clone().requires_grad_()
        loss = function(learner, teacher)
        loss.backward()
        close(loss.detach(), case.output[f"loss_{name}"], case)
        close(learner.grad, case.output[f"d_{name}"], case)
    maps = [[case.inputs[f"fsp_{side}{i}"] for i in range(3)] for side in "st"]
    close(flow_mse(*maps), case.output["fsp"], case)


def test_input(golden):
    case = golden("lighting", "kdep")
    got = apply_lighting(case.inputs["x"][None], case.inputs["alpha"][None])[0]
    close(got, case.output["out"], case)
    case = golden("input_normalize", "kdep")
    got = Normalization()(case.inputs["x"].clamp(0, 1))
    close(got, case.output["normalized"], case)


def test_signs_of_ties_follow_the_first_entry():
    basis = torch.tensor([[-0.5, 0.5], [0.5, -0.5]])
    assert torch.equal(canonical_signs(basis), torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
