"""The parts of UMT's second stage as its code has them (spec umt 9, 10)."""

import pytest
import torch
from names import part

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
from vistill.models.text.bert import BertSizes, SplitBert, own_bert_names


def close(case, actual, name, part_of="output"):
    torch.testing.assert_close(
        actual, getattr(case, part_of)[name], atol=case.atol, rtol=case.rtol, check_dtype=False
    )


def bert_of(case, state):
    config = case.config
    bert = SplitBert(
        BertSizes(
            vocabulary=config["vocab"],
            width=config["hid"],
            layers=config["layers"],
            fusion_layer=config["fusion"],
            heads=config["bheads"],
            positions=config["maxpos"],
            vision_width=config["dim"],
            hidden=config["inter"],
        )
    )
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
    negatives = hard_negatives(logits, items, inputs["noise_t2v"], inputs["noise_v2t"])
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
    found = any_negatives(items, *inputs["gauss"])
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
