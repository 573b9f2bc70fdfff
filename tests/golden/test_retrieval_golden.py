"""Retrieval and multiple choice give the numbers of the published code (spec umt 11)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from names import part
from test_umt_text_golden import bert_sizes

from vistill.evaluation.retrieval import first_right, multiple_choice, rerank
from vistill.losses.video_text import similarity
from vistill.models.files.umt import published_umt_encoder
from vistill.models.files.umt_asked import asked_of_state, published_asked
from vistill.models.files.umt_joint import towers_of_state
from vistill.models.joint import Sentences
from vistill.models.joint_umt import UMTJoint
from vistill.models.text.answering import Answerer
from vistill.models.text.bert import SplitBert, own_bert_names
from vistill.models.text.matching import fuse_looked, look
from vistill.models.vit import VisionTransformer


def test_recall_of_both_directions(golden):
    case = golden("s2_retrieval_metrics", "umt")
    right = torch.eye(case.config["T"], case.config["I"], dtype=torch.bool)
    for prefix in ("", "swapped_"):
        means = {}
        for ours, theirs in (("i2t", "txt"), ("t2i", "img")):
            scores = case.inputs[f"scores_{ours}"]
            if prefix:  # the published multi-truth reading exchanges what is a row
                scores = case.inputs[f"scores_{'t2i' if ours == 'i2t' else 'i2t'}"]
            ranks = first_right(scores.double(), right)
            found = [round(100 * float((ranks <= k).mean()), 2) for k in (1, 5, 10)]
            expected = [float(case.output[f"{prefix}{theirs}_r{k}"]) for k in (1, 5, 10)]
            np.testing.assert_allclose(found, expected, atol=case.atol)
            means[theirs] = float(case.output[f"{prefix}{theirs}_r_mean"])
            np.testing.assert_allclose(np.mean(found), means[theirs], atol=0.01)


def test_multiple_choice(golden):
    case = golden("s2_multiple_choice", "umt")
    vision, text = case.inputs["pooled_vision"], case.inputs["pooled_text"]
    seen = F.linear(vision, case.state["vision_proj.weight"], case.state["vision_proj.bias"])
    read = F.linear(text, case.state["text_proj.weight"], case.state["text_proj.bias"])
    sims = torch.cat([similarity(seen[i : i + 1], read[i]) for i in range(len(seen))])
    logits = case.inputs["itm_logits"].view(*sims.shape, 2)
    score = multiple_choice(sims, case.config["temp"], logits)
    torch.testing.assert_close(score.flatten(), case.output["score"], atol=1e-6, rtol=1e-5)
    assert score.argmax(dim=1).tolist() == case.output["pred"].tolist()
    similar = multiple_choice(sims, case.config["temp"], None)
    torch.testing.assert_close(similar.flatten(), case.output["sim"], atol=1e-6, rtol=1e-5)


def joint_of(case):
    config = case.config
    numbers = {
        "image_size": config["res"],
        "frames": config["frames"],
        "num_heads": config["heads"],
        "text_heads": config["bheads"],
        "fusion_layer": config["fusion"],
    }
    return UMTJoint(*towers_of_state(case.state, "the case", numbers), None).eval()


@pytest.mark.slow
def test_reranking_by_the_matching_head(golden):
    case = golden("s2_rerank", "umt")
    model = joint_of(case)
    videos = case.inputs["videos"]
    if videos.shape[1] == case.config["frames"]:
        videos = videos.transpose(1, 2)
    with torch.no_grad():
        frames, tokens = model.see_tokens(videos)
        read = model.read_ids(case.inputs["text_ids"], case.inputs["text_mask"].bool())
        torch.testing.assert_close(
            read.states, case.output["text_embeds"], atol=case.atol, rtol=case.rtol
        )
        per_frame = tokens.unflatten(1, (case.config["frames"], -1)).mean(dim=2)
        pooled = model.joint.pool_norm(per_frame)
        torch.testing.assert_close(
            pooled, case.output["vision_pooled"], atol=case.atol, rtol=case.rtol
        )
        sims = similarity(frames, read.embeddings)
        torch.testing.assert_close(sims, case.output["i2t_emb"], atol=case.atol, rtol=case.rtol)
        torch.testing.assert_close(sims.T, case.output["t2i_emb"], atol=case.atol, rtol=case.rtol)

        def match(one, texts):
            some = Sentences(*(part[texts] for part in read))
            return model.match(model.look(tokens[one : one + 1]), some)[:, 1]

        of_media, of_texts = rerank(sims, match, case.config["k"])
    for found, name in ((of_media, "i2t_rerank"), (of_texts, "t2i_rerank")):
        torch.testing.assert_close(found, case.output[name], atol=case.atol, rtol=case.rtol)


def test_what_is_looked_at_once_is_what_is_fused(golden):
    case = golden("s2_rerank", "umt")
    model = joint_of(case)
    text, mask = case.inputs["text_ids"], case.inputs["text_mask"].bool()
    vision = torch.randn(1, 6, case.config["dim"])
    with torch.no_grad():
        states = model.joint.text.read(text, mask)
        fused = model.joint.text.fuse(states, mask, vision.expand(len(text), -1, -1))
        torch.testing.assert_close(
            fuse_looked(model.joint.text, states, mask, look(model.joint.text, vision)), fused
        )


def test_the_names_of_a_published_model_of_questions(golden):
    case = golden("s2_vqa", "umt")
    vision = VisionTransformer(
        image_size=8, patch_size=8, embed_dim=32, depth=1, num_heads=4, class_token=False,
        tubelet_size=1, num_frames=3, qkv_bias="no_key",
    )  # fmt: skip
    seen = {f"vision_encoder.{k}": v for k, v in published_umt_encoder(vision).items()}
    numbers = {"image_size": 8, "num_heads": 4, "frames": 3, "text_heads": 3, "fusion_layer": 2}
    made = asked_of_state(seen | case.state | {"itm_head.bias": torch.zeros(2)}, "file", numbers)
    back = published_asked(*made)
    positions = {name for name in back if name.endswith("position_ids")}
    assert back.keys() - positions == (seen | case.state).keys()
    for name, value in case.state.items():
        assert torch.equal(back[name], value), name


def test_questions_and_answers(golden):
    case = golden("s2_vqa", "umt")
    config, inputs = case.config, case.inputs
    answerer = Answerer(SplitBert(bert_sizes(config)))
    for name, tower in (("text_encoder", answerer.text), ("text_decoder", answerer.writer)):
        tower.load_state_dict(own_bert_names(part(case.state, name)))
    answerer.eval()
    close_to = {"atol": case.atol, "rtol": case.rtol}
    mask = inputs["question_mask"].bool()
    states = answerer.read(inputs["question_ids"], mask, inputs["vision_tokens"])
    torch.testing.assert_close(states, case.output["question_states"], **close_to)
    rows = torch.arange(len(states)).repeat_interleave(torch.tensor(config["nq"]))
    losses = answerer.losses(states[rows], mask[rows], inputs["train_answer_ids"], 0)
    loss = (losses * inputs["train_weights"]).sum() / len(states)
    torch.testing.assert_close(loss, case.output["train_loss"], **close_to)
    loss.backward()
    parameters = dict(answerer.named_parameters())
    for name, expected in case.grad.items():
        own = name.replace("text_decoder.bert", "writer").replace("text_encoder", "text")
        torch.testing.assert_close(parameters[own].grad, expected, **close_to)
    with torch.no_grad():
        chance, numbers = answerer.choose(states, mask, inputs["answer_list_ids"], 0, k=config["k"])
    assert numbers.tolist() == case.output["topk_ids"].tolist()
    torch.testing.assert_close(chance, case.output["topk_probs"], **close_to)
