"""AMD and VideoMAE against the published code: targets, losses, gradients, whole steps."""

import pytest
import torch
from amd_models import clip_vit, load, training_names, unit
from names import batch_of, part

from vistill.config.clip_methods import AMDConfig, VideoMAEConfig
from vistill.methods.amd import AMD
from vistill.methods.videomae import VideoMAE
from vistill.models.backbone import Tap
from vistill.models.files.checkpoints import encoder_weights
from vistill.tokens.patches import channels_last, patchify, pixel_patches
from vistill.training.optim import pretrain_groups
from vistill.training.schedule import learning_rate


def amd(config, **options) -> AMD:
    side, sizes = config["img_size"][0], {"mlp_ratio": config["mlp_ratio"]}
    student, teacher = (
        clip_vit(
            side,
            config["patch"],
            config["window"][0] * 2,
            embed_dim=config[f"{who}_dim"],
            depth=config[f"{who}_depth"],
            num_heads=config[f"{who}_heads"],
            **sizes,
        )
        for who in "st"
    )
    decoder = {n: config[f"d_{k}"] for n, k in
               (("embed_dim", "dim"), ("depth", "depth"), ("num_heads", "heads"))}  # fmt: skip
    pairs = list(zip(config["student_dir"], config["teacher_dir"], strict=True))
    generation = {"depth": config["g_depth"]}
    return AMD(
        student,
        teacher,
        AMDConfig(
            student_mask_ratio=config["mask_ratio"],
            teacher_mask_ratio=config["mask_ratio_teacher"],
            direct={"pairs": pairs},
            generation=generation | {"mask_token": "frozen"} | options.get("generation", {}),
            reconstruction={"decoder": decoder},
        ),
    )


def loaded_amd(case, dtype=torch.float32, **options) -> AMD:
    method = amd(case.config, **options)
    teacher = encoder_weights(part(case.state, "teacher")).state
    load(method.teacher, teacher, absent=("norm.weight", "norm.bias"))
    tokens = {
        f"generators.{i}.mask_token": case.inputs[f"generator_mask_token_{i}"] for i in range(2)
    }
    load(method, training_names(part(case.state, "student")) | tokens)
    return method.to_device("cpu").to(dtype)


def losses_of(method: AMD, case, step: int, dtype=torch.float32):
    batch = batch_of(unit(case.inputs["video"][step].to(dtype)))
    mask = method.mask_sizes.mask(case.inputs["perm"][step].to(dtype))
    method.teacher.to(dtype)
    method.mask = lambda _: mask
    return method(batch), mask, batch


def close(found, expected, case, name=""):
    torch.testing.assert_close(
        found, expected, atol=case.atol, rtol=case.rtol, msg=lambda m: f"{name}: {m}"
    )


@pytest.fixture
def case(golden):
    return golden("amd_step", "amd")


def test_amd_features_and_target(case):
    method = loaded_amd(case)
    losses, mask, batch = losses_of(method, case, 0)
    targets = method.target_of(method.teacher_features(batch))
    pixels = batch.pixels
    out = case.output
    kept = case.info["student_visible"]
    assert mask.extra.shape[1] == case.info["n_diff"]
    for i, block in enumerate(case.config["teacher_dir"]):
        close(targets[block][:, :kept], out[f"step0_teacher_dir_{i}"], case)
        close(targets[block][:, kept:], out[f"step0_teacher_gen_{i}"], case)
    student = method.student
    taps = [Tap("block", block) for block in case.config["student_dir"]]
    taps.append(Tap("norm", student.depth))
    found = student.tap(student.normalization(pixels), taps, visible=mask.visible)
    said = method.predict({tap.block: found[tap] for tap in taps[:-1]}, mask)
    for i in range(2):
        close(said["direct"][i], out[f"step0_student_dir_{i}"], case)
        close(said["generation"][i], out[f"step0_student_gen_{i}"], case)
    painting = method.painter(found[taps[-1]], pixels, pixels, mask)
    close(painting.prediction, out["step0_recon_pred"], case)
    close(painting.target, out["step0_recon_target"], case)
    close(losses.total.detach(), out["step0_loss_total"], case)
    for i, (ours, theirs) in enumerate(method.direct.pairs):
        for kind in ("direct", "generation"):
            close(
                losses.watched[f"{kind}_{ours}_{theirs}"],
                out[f"step0_loss_{kind[:3]}_layer_{i}"],
                case,
            )
    close(losses.terms["direct"], out["step0_loss_dir"], case)
    close(losses.terms["generation"], out["step0_loss_gen"], case)
    close(losses.terms["reconstruction"], out["step0_loss_recon"], case)


def test_amd_in_float64(case):
    losses, *_ = losses_of(loaded_amd(case, torch.float64), case, 0, torch.float64)
    wanted = case.output64
    for name, term in (("dir", "direct"), ("gen", "generation"), ("recon", "reconstruction")):
        torch.testing.assert_close(
            losses.terms[term], wanted[f"step0_loss_{name}"], rtol=1e-6, atol=1e-7
        )


def test_amd_gradients(case):
    method = loaded_amd(case)
    losses_of(method, case, 0)[0].total.backward()
    gradients = {n: p.grad for n, p in method.named_parameters()}
    for name, expected in training_names(case.grad).items():
        if "__" not in name:
            close(gradients[name], expected, case, name)
    norm = torch.nn.utils.get_total_norm([g for g in gradients.values() if g is not None])
    close(norm, case.output["step0_grad_norm_unclipped"], case)
    unreached = {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert not unreached


def test_amd_learned_mask_tokens_change_no_other_gradient(case):
    method = loaded_amd(case, generation={"mask_token": "learned"})
    losses_of(method, case, 0)[0].total.backward()
    for i in range(2):
        token = method.generators[i].mask_token
        close(token.grad, case.grad[f"__generator_mask_token_{i}__would_be"], case)


def test_amd_two_clipped_steps(case):
    config, method = case.config, loaded_amd(case)
    optimizer = torch.optim.AdamW(
        pretrain_groups(method, config["wd"][0], method.no_decay), betas=tuple(config["betas"])
    )
    totals, norms = [], []
    for step in range(config["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = config["lr"][step]
        loss = losses_of(method, case, step)[0].total
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(method.parameters(), config["clip_grad"]))
        optimizer.step()
        totals.append(loss.detach())
    close(torch.stack(totals), case.output["loss_total_per_step"], case)
    close(torch.stack(norms), case.output["grad_norm_before_clip_per_step"], case)
    parameters = dict(method.named_parameters())
    for name, expected in training_names(case.updated).items():
        close(parameters[name].detach(), expected, case, name)


def test_amd_groups(golden):
    case = golden("amd_groups", "amd")
    method = amd(case.config)
    groups = pretrain_groups(method, 0.05, method.no_decay)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    parameters = {n: p for n, p in method.named_parameters() if p.requires_grad}
    expected = training_names({n: g["weight_decay"] for n, g in case.info["groups"].items()})
    assert set(parameters) == set(expected)
    assert {n: decay[id(p)] for n, p in parameters.items()} == expected


def videomae(case) -> VideoMAE:
    config = case.config
    student = clip_vit(
        config["img_size"][0],
        config["patch"],
        config["window"][0] * 2,
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
    )
    decoder = {"embed_dim": config["d_dim"], "depth": config["d_depth"]}
    method = VideoMAE(
        student,
        VideoMAEConfig(
            mask_ratio=config["mask_ratio"], decoder=decoder | {"num_heads": config["d_heads"]}
        ),
    )
    load(method, training_names(case.state))
    return method


def test_videomae_step(golden):
    case = golden("videomae_step", "amd")
    method = videomae(case)
    student = method.student
    pixels, noise = unit(case.inputs["video"]), case.inputs["perm"].float()
    mask = method.mask_sizes.mask(noise)
    hidden = torch.zeros_like(case.output["mask"]).scatter(1, mask.hidden, 1)
    assert torch.equal(hidden, case.output["mask"])
    images = student.normalization(pixels)
    close(student.embed(images, mask.visible), case.output["encoder_input_visible"], case)
    tap = Tap("norm", student.depth)
    found = student.tap(images, [tap], visible=mask.visible)[tap]
    close(found, case.output["encoder_output"], case)
    painting = method.reconstruct(batch_of(pixels), mask)
    close(painting.prediction, case.output["recon_pred"], case)
    close(painting.target, case.output["recon_target"], case)
    close(painting.loss, case.output["loss"], case)
    raw = pixel_patches(pixels, student.patch_size, 2)
    close(raw, case.output["target_raw_all"], case)
    method.painter.norm_pixels = False
    everything = torch.arange(raw.shape[1]).expand(2, -1)
    close(method.painter.target(pixels, mask._replace(hidden=everything)), raw, case)
    method.painter.norm_pixels = True
    normed = method.painter.target(pixels, mask._replace(hidden=everything))
    close(normed, case.output["target_all"], case)
    assert torch.equal(channels_last(patchify(pixels, student.patch_size, 2)), raw)

    optimizer = torch.optim.AdamW(
        pretrain_groups(method, case.config["wd"][0], method.no_decay),
        lr=case.config["lr"][0],
        betas=tuple(case.config["betas"]),
    )
    painting.loss.backward()
    parameters = dict(method.named_parameters())
    for name, expected in training_names(case.grad).items():
        close(parameters[name].grad, expected, case, name)
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in parameters.values() if p.grad is not None]
    )
    close(norm, case.output["grad_norm"], case)
    optimizer.step()
    for name, expected in training_names(case.updated).items():
        close(parameters[name].detach(), expected, case, name)


def test_videomae_in_float64(golden):
    case = golden("videomae_step", "amd")
    method = videomae(case).double()
    mask = method.mask_sizes.mask(case.inputs["perm"].double())
    painting = method.reconstruct(batch_of(unit(case.inputs["video"].double())), mask)
    torch.testing.assert_close(painting.loss, case.output64["loss"], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        painting.prediction, case.output64["recon_pred"], rtol=1e-6, atol=1e-6
    )


def test_rates_of_every_step(golden):
    case = golden("schedules", "amd")
    for run in case.config["runs"]:
        steps = run["iters_per_epoch"]
        expected = case.info[run["name"]]
        assert expected["total"] == run["epochs"] * steps
        for iteration, value in expected["values"].items():
            epoch, rest = divmod(int(iteration), steps)
            found = learning_rate(
                epoch + rest / steps,
                lr=run["base"],
                min_lr=run["final"],
                warmup_epochs=run["warmup_epochs"],
                epochs=run["epochs"],
                peak_lead=1 / steps,
            )
            assert found == pytest.approx(value, rel=1e-9, abs=1e-12), (run["name"], iteration)
