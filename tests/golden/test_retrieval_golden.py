"""Retrieval and multiple choice give the numbers of the published code (spec umt 11)."""

import numpy as np
import torch
import torch.nn.functional as F

from vistill.evaluation.retrieval import first_right, multiple_choice, similarity


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
