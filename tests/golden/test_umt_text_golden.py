"""The parts of UMT's second stage as its code has them (spec umt 9, 10)."""

import numpy as np
import pytest
import torch
from golden_cases import cases
from names import AS_IT_IS, part

from vistill.batch import Batch
from vistill.config.optim import OptimConfig
from vistill.config.umt import UMTMultimodalConfig
from vistill.data.video.sampling import clip_views, training_clip
from vistill.heads.alignment_decoder import unit
from vistill.losses.alignment import ALIGNMENTS
from vistill.losses.video_text import (
    Words,
    any_negatives,
    contrast,
    hard_negatives,
    hide_words,
    matching,
    negative_weights,
    similarity,
    word_loss,
)
from vistill.methods.umt_multimodal import UMTMultimodal
from vistill.models.files.checkpoints import vit_from_state
from vistill.models.positions import resize_clip_table, sincos_1d
from vistill.models.text.bert import BertSizes, SplitBert, own_bert_names
from vistill.models.text.video_text import VideoText
from vistill.models.vit import VisionTransformer
from vistill.text_cleanup import clean
from vistill.training.optim import pretrain_groups
from vistill.training.schedule import rate_at


def close(case, actual, name, part_of="output"):
    torch.testing.assert_close(
        actual, getattr(case, part_of)[name], atol=case.atol, rtol=case.rtol, check_dtype=False
    )


def bert_sizes(config, dropout=0.1):
    return BertSizes(
        vocabulary=config["vocab"],
        width=config["hid"],
        layers=config["layers"],
        fusion_layer=config["fusion"],
        heads=config["bheads"],
        positions=config["maxpos"],
        vision_width=config["dim"],
        hidden=config["inter"],
        dropout=dropout,
    )


def bert_of(case, state):
    bert = SplitBert(bert_sizes(case.config))
    bert.load_state_dict(own_bert_names(state), strict="cls.predictions.bias" in state)
    return bert.eval()


def test_bert(golden):
    case = golden("s2_bert", "umt")
    bert, inputs = bert_of(case, case.state), case.inputs
    text, mask = inputs["text_ids"], inputs["text_mask"].bool()
    states = bert.read(text, mask)
    close(case, states, "text")
    fused = bert.fuse(states, mask, inputs["vision"])
    close(case, fused, "fusion")
    padded = bert.fuse(states, mask, inputs["vision"], inputs["vision_mask"].bool())
    close(case, padded, "fusion_vision_padded")
    close(case, padded, "multi_modal")
    scores = bert.words(fused)
    close(case, scores, "mlm_logits")
    loss = word_loss(scores, inputs["labels"])
    close(case, loss, "mlm_loss")
    loss.backward()
    parameters = dict(bert.named_parameters())
    assert case.grad
    for name, expected in case.grad.items():
        own = next(iter(own_bert_names({name: expected})))
        torch.testing.assert_close(parameters[own].grad, expected, atol=case.atol, rtol=case.rtol)


def test_contrast(golden):
    case = golden("s2_vtc", "umt")
    vision, text, temperature = (
        case.inputs[name].clone().requires_grad_() for name in ("vision_proj", "text_proj", "temp")
    )
    items = case.inputs["idx"]
    close(case, similarity(vision, text, temperature), "sim_v2t")
    same = items[:, None] == items[None]
    close(case, same / same.sum(1, keepdim=True), "targets")
    loss = contrast(similarity(vision, text, temperature), items)
    close(case, loss, "loss")
    loss.backward()
    for tensor, name in ((vision, "vision"), (text, "text"), (temperature, "temp")):
        close(case, tensor.grad, f"grad_{name}")
    apart = contrast(similarity(vision, text, temperature), torch.arange(len(items)))
    close(case, apart, "loss_without_idx")


def test_contrast_of_two_ranks(golden):
    """Each rank's gradient is what its own loss says of its own rows (`Ranks.gather`, local)."""
    case = golden("s2_vtc_two_ranks", "umt")
    inputs, half = case.inputs, case.config["B"] // 2
    close_to = {"atol": case.atol, "rtol": case.rtol}
    for rank in range(2):
        rows = slice(rank * half, (rank + 1) * half)
        mine = {n: inputs[n][rows].clone().requires_grad_() for n in ("vision_proj", "text_proj")}
        gathered = {
            name: torch.cat([inputs[name][:half], own] if rank else [own, inputs[name][half:]])
            for name, own in mine.items()
        }
        temperature = torch.tensor(case.config["temp"]).requires_grad_()
        logits = similarity(gathered["vision_proj"], gathered["text_proj"], temperature)
        loss = contrast(logits, inputs["idx"])
        torch.testing.assert_close(loss, case.output["loss_per_rank"][rank], **close_to)
        loss.backward()
        for name, own in (("vision", "vision_proj"), ("text", "text_proj")):
            wanted = case.output[f"grad_{name}"][rows]
            torch.testing.assert_close(mine[own].grad, wanted, **close_to)
        wanted = case.output["grad_temp_per_rank"][rank]
        torch.testing.assert_close(temperature.grad, wanted, **close_to)


def test_matching(golden):
    case = golden("s2_vtm", "umt")
    inputs, items = case.inputs, case.inputs["idx"]
    bert = bert_of(case, part(case.state, "text_encoder"))
    head = torch.nn.Linear(case.config["hid"], 2)
    head.load_state_dict(part(case.state, "itm_head"))
    logits = similarity(inputs["vision_proj"], inputs["text_proj"], case.config["temp"])
    same = items[:, None] == items[None]
    close(case, negative_weights(logits.T, same), "weights_t2v")
    close(case, negative_weights(logits, same), "weights_v2t")
    noise = inputs["noise_t2v"], inputs["noise_v2t"]
    negatives = hard_negatives(logits, logits.T, same, *noise)
    close(case, negatives.clips, "neg_video_ids")
    close(case, negatives.sentences, "neg_text_ids")
    mask = inputs["text_mask"].bool()

    def scores(found):
        vision, text = inputs["vision_embeds"], inputs["text_embeds"]
        states = torch.cat([text, text, text[found.sentences]])
        masks = torch.cat([mask, mask, mask[found.sentences]])
        seen = torch.cat([vision, vision[found.clips], vision])
        return head(bert.fuse(states, masks, seen)[:, 0])

    close(case, scores(negatives), "logits")
    loss = matching(scores(negatives), negatives.known)
    close(case, loss, "loss")
    loss.backward()
    parameters = {f"text_encoder.{n}": p for n, p in bert.named_parameters()}
    parameters |= {f"itm_head.{n}": p for n, p in head.named_parameters()}
    for name, expected in case.grad.items():
        torch.testing.assert_close(parameters[name].grad, expected, atol=case.atol, rtol=case.rtol)
    found = any_negatives(same, *inputs["gauss"])
    close(case, matching(scores(found), found.known), "loss_random_negatives")


def test_hidden_words(golden):
    case = golden("s2_mlm_mask", "umt")
    inputs = case.inputs
    found = hide_words(
        inputs["text_ids"],
        Words(case.config["vocab"], pad=0, cls=1, mask=3),
        selected=inputs["draw_select"],
        masked=inputs["draw_replace"],
        replaced=inputs["draw_random"],
        others=inputs["random_words"],
    )
    assert torch.equal(found.text, case.output["input_ids"])
    assert torch.equal(found.labels, case.output["labels"])


@pytest.mark.parametrize("kind", ["l2", "mse", "smooth_l1"])
def test_alignment(golden, kind):
    case = golden("s2_uta", "umt")
    student, target = case.inputs["student"].clone().requires_grad_(), case.inputs["target"]
    loss = ALIGNMENTS[kind](unit(student), unit(target))
    close(case, loss, f"l2_{kind}")
    close(case, ALIGNMENTS[kind](student, target), f"none_{kind}")
    if kind == "l2":
        loss.backward()
        close(case, student.grad, "grad_l2_l2")


def stage_two(case, state):
    """The method with a case's weights."""
    config = case.config
    student = VisionTransformer(
        image_size=config["res"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        class_token=False,
        tubelet_size=1,
        num_frames=config["frames"],
        qkv_bias="no_key",
        normalization=AS_IT_IS,
    )
    student.load_state_dict(part(state, "vision_encoder.encoder"), strict=False)
    teacher = vit_from_state(
        {f"visual.{k}": v for k, v in part(state, "clip_teacher").items()},
        "the case",
        config["t_heads"],
    )
    settings = UMTMultimodalConfig.model_validate(
        {
            "alignment": {
                "aligned_layers": config["ret_layers"],
                "mask_ratio": config["video_ratio"],
                "picture_mask_ratio": config["image_ratio"],
            },
        }
    )
    sizes = bert_sizes(config, dropout=0.0)
    words = Words(config["vocab"], pad=0, cls=1, mask=3)
    method = UMTMultimodal(
        student, teacher, VideoText(SplitBert(sizes), config["emb"]), words, settings
    )
    method.joint.text.load_state_dict(own_bert_names(part(state, "text_encoder")))
    decoders = part(state, "vision_encoder.clip_decoder")
    method.decoders.load_state_dict({f"layers.{k}": v for k, v in decoders.items()})
    method.joint.pool_norm.load_state_dict(part(state, "vision_encoder.pool_norm"))
    for name, published in (("vision_proj",) * 2, ("text_proj",) * 2, ("match_head", "itm_head")):
        getattr(method.joint, name).load_state_dict(part(state, published))
    method.joint.temperature.data.fill_(state["temp"].item())
    return method


def own(name):
    """A published parameter's name in the method."""
    for published, ours in (
        ("vision_encoder.encoder.", "student."),
        ("vision_encoder.clip_decoder.", "decoders.layers."),
        ("vision_encoder.", "joint."),
        ("text_encoder.bert.", "joint.text."),
        ("text_encoder.", "joint.text."),
        ("itm_head.", "joint.match_head."),
    ):
        if name.startswith(published):
            return ours + name.removeprefix(published)
    return f"joint.{'temperature' if name == 'temp' else name}"


def test_whole_steps(golden, monkeypatch):
    """A step on clips, then one on pictures, with the draws of the case."""
    case = golden("s2_full_step", "umt")
    config, inputs, close_to = case.config, case.inputs, {"atol": case.atol, "rtol": case.rtol}
    method = stage_two(case, case.state).train()
    optimizer = torch.optim.AdamW(pretrain_groups(method, config["wd"]), lr=1.0, betas=(0.9, 0.999))
    parameters = dict(method.named_parameters())
    optim = OptimConfig(
        lr=config["lr"], warmup_epochs=2, floor_lr=config["lr"] * config["min_mult"], min_lr=0.0
    )
    for step, kind in enumerate(("video", "image")):
        given = {k.removeprefix(f"{kind}_"): v for k, v in inputs.items() if k.startswith(kind)}
        pixels = given["pixels"].transpose(1, 2)
        pixels = pixels[:, :, 0] if kind == "image" else pixels
        noise = [given["noise_t2v"], given["noise_v2t"]]
        monkeypatch.setattr(
            "vistill.methods.mask_choice.exponential", lambda _, g=given: g["noise_mask"]
        )
        monkeypatch.setattr("vistill.methods.video_text.exponential", lambda _, n=noise: n.pop(0))
        monkeypatch.setattr(
            "vistill.methods.video_text.with_hidden_words",
            lambda seeds, text, words, share, g=given: hide_words(
                text, words, selected=g["draw_select"], masked=g["draw_replace"],
                replaced=g["draw_random"], others=g["random_words"],
            ),
        )  # fmt: skip
        rows = torch.arange(len(pixels))
        batch = Batch(
            pixels,
            seeds=rows,
            ids=rows,
            inputs={
                "text": given["text_ids"],
                "text_mask": given["text_mask"],
                "item": given["idx"],
                "sentence": rows,
            },
        )
        losses = method(batch)
        names = {"alignment": "uta", "contrast": "vtc", "matching": "vtm", "words": "mlm"}
        for term, published in names.items():
            wanted = case.output[f"{kind}_loss_{published}"]
            torch.testing.assert_close(losses.terms[term], wanted, **close_to)
        torch.testing.assert_close(losses.total, case.output[f"{kind}_total"], **close_to)
        rate = rate_at(optim, step, peak=config["lr"], epochs=config["total"], steps_per_epoch=1)
        assert rate == pytest.approx(case.output[f"{kind}_lr"].item(), rel=1e-9)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        losses.total.backward()
        if step == 0:
            assert case.grad
            for name, expected in case.grad.items():
                found = parameters[own(name)].grad.reshape(expected.shape)
                torch.testing.assert_close(found, expected, **close_to)
        optimizer.step()
    after = {k.removeprefix("param_after/"): v for k, v in case.output.items() if "_after/" in k}
    assert after
    for name, expected in after.items():
        found = parameters[own(name)].detach().reshape(expected.shape)
        torch.testing.assert_close(found, expected, **close_to)


def test_schedule(golden):
    case = golden("s2_schedule", "umt")
    for number, (warm, total, least) in enumerate(case.inputs["rows"].tolist()):
        optim = OptimConfig(lr=1.0, warmup_epochs=warm, min_lr=0.0, floor_lr=least)
        wanted = case.output[f"mult_{number}"].tolist()
        assert len(wanted) == total
        for step, expected in enumerate(wanted):
            rate = rate_at(optim, step, peak=1.0, epochs=int(total), steps_per_epoch=1)
            assert rate == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_parameter_groups(golden):
    case = golden("s2_param_groups", "umt")
    method = stage_two(case, golden("s2_full_step", "umt").state)
    names = {p: name for name, p in method.named_parameters()}
    found = {
        names[p]: group["weight_decay"]
        for group in pretrain_groups(method, case.config["wd"])
        for p in group["params"]
    }
    listed = cases("umt")["s2_param_groups"]["groups"].items()
    wanted = {own(name): decay for name, (decay, _) in listed if not name.startswith("clip_")}
    assert found == wanted


@pytest.mark.parametrize("kind", ["video", "image"])
def test_vision(golden, kind):
    case = golden("s2_vision_encoder", "umt")
    config = case.config
    whole = golden("s2_full_step", "umt").state
    mine = {f"vision_encoder.{k}": v for k, v in case.state.items()}
    method = stage_two(case, {k: v for k, v in whole.items() if "vision_encoder" not in k} | mine)
    method.decoders.unit_length = False
    clips = case.inputs[kind]
    positions = (config["res"] // config["patch"]) ** 2
    for masked in (True, False):
        if masked:
            hidden = case.inputs[f"{kind}_mask"]
            visible = torch.stack([torch.nonzero(~row)[:, 0] for row in hidden])
        else:
            visible = torch.arange(clips.shape[2] * positions).expand(len(clips), -1)
        found = method.student.tap(clips, method.taps, visible=visible)
        layers = [method.student.final_norm(found[tap]) for tap in method.taps]
        name = f"{kind}_masked" if masked else kind
        close(case, layers[-1], f"{name}_tokens")
        pooled = method.joint.pool_norm(layers[-1].mean(1, keepdim=True))
        if masked:
            close(case, pooled, f"{name}_pooled")
            close(case, method.decoders(layers, visible), f"{name}_decoded")
        elif kind == "image":
            close(case, pooled, "image_pooled")
        else:
            close(case, pooled, "video_pooled_all")
            frames = layers[-1].unflatten(1, (config["frames"], -1)).mean(2)
            close(case, method.joint.pool_norm(frames), "video_pooled_per_frame")
            projected = method.joint.pooled(layers[-1], config["frames"])
            torch.testing.assert_close(
                projected, method.joint.vision_proj(method.joint.pool_norm(frames))
            )


def test_teacher(golden):
    case = golden("s2_teacher", "umt")
    whole = golden("s2_full_step", "umt").state
    mine = {f"clip_teacher.{k}": v for k, v in case.state.items()}
    state = {k: v for k, v in whole.items() if "clip_teacher" not in k} | mine
    method = stage_two(case, state)
    looks, importance = method.looks[False], []
    looks.config = looks.config.model_copy(update={"norm": "none"})
    _, features = looks.look(case.inputs["video"], importance.append)
    close(case, features, "feats")
    close(case, importance[0].flatten(0, 1), "attn")


def test_cleaned_captions(golden):
    case = cases("umt")["s2_text_cleanup"]
    assert [clean(text) for text in case["config"]["texts"]] == case["cleaned"]


def test_position_tables(golden):
    case = golden("s2_pos_interp", "umt")
    for number, (length, width, before, now) in enumerate(case.config["rows"]):
        before = now if before < 0 else before
        positions = length // now
        table = sincos_1d(width, before * positions).float()
        table = resize_clip_table(table, 0, (before, 1, positions), (now, 1, positions))
        close(case, table, f"table_{number}")


def test_frames_of_clips(golden):
    """In the middle of intervals in tests, anywhere but at their ends in training; vistill has no
    mode by frames a second, whose cases are left out."""
    case = golden("s2_frame_indices", "umt")
    for number, (n, frames) in enumerate(case.config["rows"]):
        found = clip_views(n, frames, 1, "intervals", 1)[0]
        assert found.tolist() == case.output[f"middle_{number}"].tolist()
    borders = np.linspace(0, 100, 5).astype(int)
    drawn = np.stack(
        [training_clip(100, 4, 1, "intervals", np.random.default_rng(seed)) for seed in range(300)]
    )
    for column, start, end in zip(drawn.T, borders, borders[1:], strict=False):
        assert (column.min(), column.max()) == (start, end - 2)
    assert training_clip(7, 12, 1, "intervals", np.random.default_rng(0)).tolist() == [
        *range(7), *[6] * 5
    ]  # fmt: skip
