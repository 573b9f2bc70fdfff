"""UMT's second stage where batches are odd, and the switches of its losses."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from unequal import batch, student, teacher

from vistill.batch import Batch
from vistill.config.umt import UMTMultimodalConfig
from vistill.losses.video_text import Words, contrast, similarity
from vistill.methods.text_towers import joint_of
from vistill.methods.umt_multimodal import UMTMultimodal
from vistill.methods.video_text import Pairs, matching_loss
from vistill.models.text.bert import BertSizes, SplitBert
from vistill.models.text.video_text import VideoText

WORDS = Words(40, pad=0, cls=1, mask=3)
CLIPS: dict[str, Any] = {"tubelet_size": 1, "num_frames": 4, "class_token": False}


def stage_two(**options: Any) -> UMTMultimodal:
    torch.manual_seed(0)
    bert = SplitBert(BertSizes(40, width=16, layers=2, fusion_layer=1, heads=2, positions=16,
                               vision_width=16, dropout=0.0))  # fmt: skip
    given = {"embedding": 8, "alignment": {"aligned_layers": 2}, **options}
    config = UMTMultimodalConfig.model_validate(given)
    return UMTMultimodal(
        student(**CLIPS), teacher(torch.float32), VideoText(bert, 8), WORDS, config
    ).train()


def pairs(items: list[int], sentences: list[int] | None = None, frames: int | None = 4) -> Batch:
    made = batch(len(items), frames=frames)
    generator = torch.Generator().manual_seed(5)
    text = torch.randint(4, 40, (len(items), 6), generator=generator)
    text[:, 0], text[:, 4:] = WORDS.cls, WORDS.pad
    inputs = {
        "text": text,
        "text_mask": text != WORDS.pad,
        "item": torch.tensor(items),
        "sentence": torch.tensor(sentences or range(len(items))),
    }
    return Batch(made.pixels, made.seeds, made.ids, inputs=inputs)


@pytest.mark.parametrize("negatives", ["hard", "any"])
@pytest.mark.parametrize("items", [[7], [7, 7, 7], [1, 2, 2], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("frames", [4, None])
def test_any_batch_has_losses_and_gradients(items, negatives, frames) -> None:
    method = stage_two(negatives=negatives)
    losses = method(pairs(items, frames=frames))
    assert set(losses.terms) == {"alignment", "contrast", "matching", "words"}
    assert all(torch.isfinite(term) for term in losses.terms.values())
    losses.total.backward()
    grads = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)
    if len(set(items)) == 1:  # all are right for all: no less than the entropy of a draw
        assert losses.terms["contrast"] >= math.log(len(items)) - 1e-5


@pytest.mark.parametrize("term", ["contrast", "matching", "words"])
def test_what_weighs_nothing_is_left_out(term: str) -> None:
    whole = stage_two()(pairs([1, 2, 3]))
    without = stage_two(**{f"{term}_weight": 0.0})(pairs([1, 2, 3]))
    assert term not in without.terms
    assert without.total.item() == pytest.approx((whole.total - whole.terms[term]).item(), rel=1e-5)


def test_equal_words_of_other_items() -> None:
    given = pairs([1, 2, 3], [8, 8, 9])
    apart, wrong = stage_two()(given), stage_two(equal_words="wrong")(given)
    assert apart.terms["contrast"] < wrong.terms["contrast"]  # fewer are wrong
    none = pairs([1, 2, 3], [7, 8, 9])
    assert torch.equal(
        stage_two()(none).terms["contrast"],
        stage_two(equal_words="wrong")(none).terms["contrast"],
    )


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_negatives_of_the_batch_or_of_the_rank(size: int, rank: int, monkeypatch) -> None:
    """With two ranks of three rows, a rank draws from its own rows alone, or from all six."""
    method, mine = stage_two(), pairs([1, 2, 3])
    seen: list[torch.Tensor] = []

    def watched(clip_logits: Any, sentence_logits: Any, same: Any, *noise: Any) -> Any:
        seen.append(same)
        assert clip_logits.shape == sentence_logits.shape == same.shape == noise[0].shape
        rows = torch.zeros(3, dtype=torch.long)
        return SimpleNamespace(clips=rows, sentences=rows, known=torch.ones(3, dtype=torch.bool))

    monkeypatch.setattr("vistill.methods.video_text.hard_negatives", watched)
    ranks = SimpleNamespace(
        rank=rank, size=size, gather=lambda rows, grad="none": torch.cat([rows] * size)
    )
    everyone = torch.arange(3 * size)
    tokens, states = torch.rand(3, 5, 16), torch.rand(3, 6, 16)
    mask = mine.inputs["text_mask"]
    all_pairs = Pairs(tokens, states, mask, torch.rand(3 * size, 3 * size), everyone, None)
    for kind, wanted in (("batch", 3 * size), ("rank", 3)):
        config = UMTMultimodalConfig(negatives_of=kind)
        assert torch.isfinite(matching_loss(method.joint, mine, all_pairs, config, ranks))
        expected = torch.zeros(3, wanted, dtype=torch.bool)
        start = rank * 3 if kind == "batch" else 0
        expected[torch.arange(3), torch.arange(3) + start] = True
        assert torch.equal(seen[-1], expected)


def test_the_published_gradient_of_a_rank_is_its_share_of_the_true_one() -> None:
    """`local`: what a rank's own loss says of its rows; two ranks add up to the whole."""
    vision, text = torch.rand(4, 1, 8), torch.rand(4, 8)
    items = torch.arange(4)
    rows = vision.clone().requires_grad_()
    contrast(similarity(rows, text, 0.07), items).backward()
    for part in (slice(0, 2), slice(2, 4)):
        own = vision[part].clone().requires_grad_()
        parts = [vision[:2], vision[2:]]
        parts[part.start // 2] = own
        contrast(similarity(torch.cat(parts), text, 0.07), items).backward()
        torch.testing.assert_close(own.grad, rows.grad[part])


def test_the_temperature_stays_in_bounds_and_decays_where_it_is_said() -> None:
    small = {"depth": 2, "embed_dim": 16, "num_heads": 2}
    for decays, given in ((True, None), (False, 0.2)):
        told = {"text": small, "temperature": given, "decay_temperature": decays}
        joint = joint_of(UMTMultimodalConfig.model_validate(told), WORDS, 16, guesses=True)
        assert (joint.temperature.dim() > 1) == decays
        assert float(joint.temperature.detach()) == pytest.approx(given or 0.07)
        for value, wanted in ((-3.0, 0.001), (9.0, 0.5), (0.2, 0.2)):
            joint.temperature.data.fill_(value)
            assert float(joint.clamp_temperature().detach()) == pytest.approx(wanted)
