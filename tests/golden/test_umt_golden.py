"""UMT's first stage as its code has it (spec umt 2-6)."""

from types import SimpleNamespace

import pytest
import torch
from golden_cases import cases
from names import AS_IT_IS, batch_of, part
from torch.nn.utils import get_total_norm

from vistill.config.umt import UMTConfig
from vistill.data.video.transforms import multi_scale_boxes
from vistill.heads.alignment_decoder import AlignmentDecoder, AlignmentDecoders, unit
from vistill.losses.alignment import ALIGNMENTS
from vistill.methods.frame_teacher import FrameTeacher
from vistill.methods.side import Side, rising
from vistill.methods.umt import UMT, returned
from vistill.models.files.checkpoints import vit_from_state
from vistill.models.layers import drop_path_keep
from vistill.models.positions import sincos_1d
from vistill.models.vit import VisionTransformer
from vistill.tokens.masks import clip_mask_sizes, nested_mask, tube_visible
from vistill.tokens.semantic import frame_visible, of_clip, sampling_order
from vistill.training.optim import pretrain_groups
from vistill.training.schedule import learning_rate


def teacher_of(case, state):
    named = {f"visual.{name}": value for name, value in state.items()}
    heads = case.config["t_heads"]
    teacher = vit_from_state(named, "the case", heads)
    teacher.normalization = AS_IT_IS
    return teacher.requires_grad_(False).eval()


def student_of(case, state):
    config = case.config
    student = VisionTransformer(
        image_size=config["s_res"],
        patch_size=config["s_patch"],
        embed_dim=config["s_dim"],
        depth=config["s_depth"],
        num_heads=config["s_heads"],
        class_token=False,
        tubelet_size=config.get("tubelet", 1),
        num_frames=config["frames"],
        qkv_bias="no_key",
        normalization=AS_IT_IS,
    )
    student.load_state_dict(part(state, "encoder"), strict=False)
    return student


def umt_of(case, states):
    """The method with a case's weights; without a teacher's, one that nothing is asked of."""
    config = case.config
    settings = UMTConfig(
        aligned_layers=config["ret_layers"], mask_ratio=config["mask_ratio"], norm=config["norm"]
    )
    student = student_of(case, states["student"])
    if "teacher" in states:
        teacher = teacher_of(case, states["teacher"])
    else:
        teacher = VisionTransformer(
            image_size=config["t_res"],
            patch_size=config["t_patch"],
            embed_dim=config["t_width"],
            depth=config["t_layers"],
            num_heads=config["t_heads"],
        )
        teacher.keep_projection(torch.zeros(config["t_width"], config["t_out"]))
    method = UMT(student, teacher, settings)
    decoders = {f"layers.{k}": v for k, v in part(states["student"], "clip_decoder").items()}
    method.decoders.load_state_dict(decoders)
    return method


def own(name):
    """A published parameter's name in the method."""
    return name.replace("clip_decoder.", "decoders.layers.").replace("encoder.", "student.")


def visible_of(mask):
    """Indices of a boolean mask's visible tokens, which is True where one is hidden."""
    return torch.stack([torch.nonzero(~row)[:, 0] for row in mask])


def close(case, actual, name, **other):
    torch.testing.assert_close(
        actual, case.output[name], atol=case.atol, rtol=case.rtol, check_dtype=False, **other
    )


def look(case, teacher, **settings):
    """The teacher's features and importance of everything it sees."""
    config = UMTConfig(**{"aligned_layers": case.config["ret_layers"], **settings})
    blocks = returned(Side(teacher, "teacher", 0), config.aligned_layers, 1, "teacher")
    grid = teacher.grid
    looks = FrameTeacher(
        Side(teacher, "teacher", 0),
        slots=case.config["frames"],
        grid=grid,
        blocks=blocks,
        config=config,
    )
    found = SimpleNamespace(importance=None)

    def choose(importance):
        found.importance = importance
        return settings.get("visible")

    return looks, found, choose


@pytest.mark.parametrize("norm", ["l2", "none"])
def test_teacher(golden, norm):
    case = golden("s1_teacher_clip", "umt")
    teacher = teacher_of(case, case.state)
    looks, found, choose = look(case, teacher, norm=norm)
    visible, features = looks.look(case.inputs["video"], choose)
    assert visible is None
    close(case, features, f"feats_{norm}")
    close(case, found.importance.flatten(0, 1), "attn")


def test_what_is_read_of_the_last_block_alone_is_the_same(golden):
    case = golden("s1_teacher_clip", "umt")
    looks, _, _ = look(case, teacher_of(case, case.state))
    chosen = torch.rand(2, 3, 16).argsort(-1)[..., :5]
    visible, features = looks.look(case.inputs["video"], lambda _: of_clip(chosen, 16))
    wanted = case.output["feats_l2"][:, torch.arange(2)[:, None], visible]
    torch.testing.assert_close(features, wanted, atol=case.atol, rtol=case.rtol)


def test_teacher_that_sees_no_more_than_the_student(golden):
    case = golden("s1_teacher_visible_only", "umt")
    looks, _, _ = look(case, teacher_of(case, case.state), mask="tube", visible_only=True)
    visible = visible_of(case.inputs["mask"])
    _, features = looks.look(case.inputs["video"], lambda _: visible)
    close(case, features, "feats")


def test_teacher_of_another_size(golden):
    case = golden("s1_teacher_input_resize", "umt")
    size, frames = case.config["out"], case.config["T"]
    teacher = VisionTransformer(image_size=size, patch_size=7, embed_dim=8, depth=1, num_heads=2)
    looks = FrameTeacher(
        Side(teacher, "teacher", 0),
        slots=frames,
        grid=(4, 4),
        blocks=[1],
        config=UMTConfig(aligned_layers=1),
    )
    shown = looks.frames(case.inputs["video"]).unflatten(0, (-1, frames)).transpose(1, 2)
    close(case, shown, "clip_video")


def test_weights_of_a_teacher_of_another_size(golden):
    case = golden("s1_teacher_weight_import", "umt")
    whole = golden("s1_teacher_clip", "umt").state
    weights = whole | {
        "positional_embedding": case.inputs["positional_embedding"],
        "conv1.weight": case.inputs["conv1_2d"],
    }
    teacher = teacher_of(case, weights)
    teacher.resize(case.config["t_res"])
    close(case, teacher.pos_embed[0], "positional_embedding")
    close(case, teacher.patch_embed.proj.weight[:, :, None], "conv1.weight")


@pytest.mark.parametrize("middle", [True, False])
def test_a_teacher_of_tubes_sees_the_middle_or_the_mean_of_them(middle):
    """The published teacher's convolution over time, inflated in one of two ways."""
    torch.manual_seed(0)
    teacher = VisionTransformer(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2)
    kernel, clips = teacher.patch_embed.proj.weight, torch.rand(2, 3, 6, 16, 16)
    inflated = torch.zeros(8, 3, 2, 8, 8)
    if middle:
        inflated[:, :, 1] = kernel
    else:
        inflated[:] = kernel[:, :, None] / 2
    bias = teacher.patch_embed.proj.bias
    wanted = torch.nn.functional.conv3d(clips, inflated, bias, stride=(2, 8, 8))
    config = UMTConfig(aligned_layers=1, slot="middle" if middle else "mean")
    looks = FrameTeacher(
        Side(teacher, "teacher", 0), slots=3, grid=(2, 2), blocks=[1], config=config
    )
    found = teacher.patch_embed(looks.frames(clips)).reshape(2, 3, 4, 8)
    torch.testing.assert_close(found, wanted.flatten(3).permute(0, 2, 3, 1), atol=1e-6, rtol=1e-5)


def test_semantic_mask(golden):
    case = golden("s1_mask_attention", "umt")
    order = sampling_order(case.inputs["attn"], case.inputs["exp_noise"])
    assert torch.equal(order, case.output["order"])
    frames, positions = case.config["T"], case.config["N"]
    kept = frame_visible(positions, case.config["ratio"])
    visible = of_clip(order.unflatten(0, (-1, frames))[..., :kept], positions)
    assert torch.equal(visible, case.output["visible_ids"])
    hidden = torch.ones_like(case.output["mask"]).scatter(1, visible, False)
    assert torch.equal(hidden, case.output["mask"])


def test_counts(golden):
    case = golden("s1_mask_counts", "umt")
    for row, length in enumerate(case.inputs["N"].tolist()):
        for column, ratio in enumerate(case.inputs["ratio"].tolist()):
            assert frame_visible(length, ratio) == case.output["attention_visible"][row, column]
            for slots, name in ((1, "tube_masked_per_frame"), (2, "random_masked_total_2frames")):
                total = slots * length
                hidden = total - tube_visible(total, ratio)
                assert hidden == case.output[name][row, column]


@pytest.mark.parametrize("tube", [True, False])
def test_tube_and_random_masks(golden, tube):
    case = golden("s1_mask_tube_random", "umt")
    frames, positions = case.config["T"], case.config["h"] * case.config["w"]
    sizes = clip_mask_sizes(frames, positions, case.config["ratio"], tube=tube)
    name = "tube" if tube else "random"
    noise = case.inputs[f"perm_{name}"][None].float()
    found = nested_mask(noise, sizes.visible, slots=sizes.slots).hidden
    hidden = torch.zeros(1, frames * positions, dtype=torch.double).scatter(1, found, 1.0)
    assert torch.equal(hidden[0], case.output[name])


def test_student(golden):
    case = golden("s1_student", "umt")
    method = umt_of(case, {"student": case.state})
    visible = visible_of(case.inputs["mask"])
    features = method.see(batch_of(case.inputs["video"]), case.inputs["video"], visible)
    close(case, torch.stack(features), "enc_layers")
    close(case, features[-1], "x_vis")
    close(case, method.student.pos_embed, "pos_embed")
    close(case, method.decoders.positions[None], "clip_pos_embed")
    decoded = method.decoders(features, visible)
    close(case, decoded, "decoded")
    loss = ALIGNMENTS["l2"](decoded, case.inputs["target"])
    close(case, loss, "loss_l2")
    loss.backward()
    parameters = dict(method.named_parameters())
    assert case.grad
    for name, expected in case.grad.items():
        found = parameters[own(name)].grad
        torch.testing.assert_close(found, expected, atol=case.atol, rtol=case.rtol)


def test_student_of_tubes(golden):
    case = golden("s1_student_tubelet2", "umt")
    method = umt_of(case, {"student": case.state})
    visible = visible_of(case.inputs["mask"])
    features = method.see(batch_of(case.inputs["video"]), case.inputs["video"], visible)
    close(case, method.decoders(features, visible), "decoded")


def test_losses(golden):
    case = golden("s1_losses", "umt")
    student = case.inputs["student"].requires_grad_()
    found = {name: loss(student, case.inputs["target"]) for name, loss in ALIGNMENTS.items()}
    for name, loss in found.items():
        close(case, loss, name)
    torch.stack([*found.values()]).sum().backward()
    close(case, student.grad, "grad_student_of_sum")
    decoder = AlignmentDecoder(case.config["D"], case.config["C"], 1e-6)
    decoder.load_state_dict(part(case.state, "decoder"))
    close(case, decoder(case.inputs["hidden"]), "decoder_none")
    close(case, unit(decoder(case.inputs["hidden"])), "decoder_l2")


def test_decoders_leave_as_long_as_they_are_asked_to():
    decoders = AlignmentDecoders(8, 6, 2, 4, unit_length=False)
    features = [torch.rand(3, 4, 8) for _ in range(2)]
    raw = decoders(features, None)
    decoders.unit_length = True
    torch.testing.assert_close(decoders(features, None), unit(raw))
    assert not torch.allclose(raw, unit(raw))


def test_drop_path(golden):
    case = golden("s1_drop_path", "umt")
    rates = torch.tensor(rising(case.config["rate"], case.config["depth"]))
    close(case, rates, "rates")
    x, uniform = case.inputs["x"], case.inputs["u"][:, 0, 0]
    keep = drop_path_keep(uniform, case.config["p"], x)
    close(case, x * keep, "y")


def test_position_tables(golden):
    case = golden("s1_sincos", "umt")
    close(case, sincos_1d(case.config["d"], case.config["n"]).float(), "table")
    rows = sincos_1d(64, 1568)[:, case.config["rows"]].float()
    close(case, rows.reshape(case.output["table_1568_rows"].shape), "table_1568_rows")


def test_schedules(golden):
    case = golden("s1_schedules", "umt")
    for number, row in enumerate(case.inputs["rows"].tolist()):
        base, final, epochs, per_epoch, warmup, start, warmup_steps = row
        warm = warmup_steps / per_epoch if warmup_steps > 0 else warmup
        table = case.output[f"table_{number}"].tolist()
        assert len(table) == epochs * per_epoch
        for step, expected in enumerate(table):
            found = learning_rate(
                step / per_epoch,
                lr=base,
                min_lr=final,
                warmup_epochs=warm,
                warmup_lr=start,
                epochs=epochs,
                peak_lead=1 / per_epoch,
            )
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_crops(golden):
    case = golden("s1_multiscale_crop", "umt")
    for number, (width, height, size) in enumerate(case.config["sizes"]):
        boxes = multi_scale_boxes(height, width, size)
        pairs = [[anchors[0].width, anchors[0].height] for anchors in boxes]
        assert pairs == case.output[f"pairs_{number}"].tolist()
        offsets = [[[box.left, box.top] for box in anchors] for anchors in boxes]
        assert offsets == case.output[f"offsets_{number}"].tolist()


def test_parameter_groups(golden):
    case = golden("ft_param_groups", "umt")
    states = golden("s1_train_steps", "umt").state
    method = umt_of(golden("s1_train_steps", "umt"), {"student": part(states, "student")})
    names = {p: name for name, p in method.named_parameters()}
    found = {
        names[p]: group["weight_decay"]
        for group in pretrain_groups(method, case.config["wd"])
        for p in group["params"]
    }
    index = cases("umt")["ft_param_groups"]["stage1_groups"]
    assert {own(name): decay for name, (decay, _) in index.items()} == found


def test_training_steps(golden):
    case = golden("s1_train_steps", "umt")
    config, close_to = case.config, {"atol": case.atol, "rtol": case.rtol}
    method = umt_of(
        case, {"student": part(case.state, "student"), "teacher": part(case.state, "teacher")}
    ).train()
    optimizer = torch.optim.AdamW(
        pretrain_groups(method, config["wd"]), lr=1.0, betas=tuple(config["betas"])
    )
    parameters = dict(method.named_parameters())
    for step in range(config["steps"]):
        rate = learning_rate(
            step / config["steps"],
            lr=config["lr"],
            min_lr=config["min_lr"],
            warmup_epochs=config["warmup_epochs"],
            epochs=config["epochs"],
            peak_lead=1 / config["steps"],
        )
        assert rate == pytest.approx(case.output["lr"][step].item(), rel=1e-9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        clips, noise = case.inputs["videos"][step], case.inputs["exp_noise"][step]

        def choose(importance, noise=noise):
            order = sampling_order(importance, noise.unflatten(0, (-1, config["frames"])))
            return of_clip(order[..., : method.choose.sizes.visible], importance.shape[2])

        with torch.no_grad():
            visible, targets = method.looks.look(clips, choose)
        predicted = method.decoders(method.see(batch_of(clips), clips, visible), visible)
        loss = ALIGNMENTS["l2"](predicted, targets)
        optimizer.zero_grad()
        loss.backward()
        assert loss.item() == pytest.approx(case.output["loss"][step].item(), rel=case.rtol)
        norm = get_total_norm([p.grad for p in method.parameters() if p.grad is not None])
        assert norm.item() == pytest.approx(case.output["grad_norm"][step].item(), rel=case.rtol)
        if step == 0:
            for name, expected in case.grad.items():
                torch.testing.assert_close(parameters[own(name)].grad, expected, **close_to)
        optimizer.step()
    for name, expected in part_of_path(case.output, "param_after").items():
        torch.testing.assert_close(parameters[own(name)].detach(), expected, **close_to)


def part_of_path(state, folder):
    return {k.removeprefix(f"{folder}/"): v for k, v in state.items() if k.startswith(f"{folder}/")}
