"""Class scores with labels, and relations to a queue: by hand, resumed, and of several students."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from building import SECTIONS, build
from torch import Tensor
from unequal import batch, said_by, student, teacher

from vistill.errors import UserError
from vistill.methods import build_method
from vistill.methods.ingredients import Ingredients
from vistill.methods.multi_student import MultiStudent
from vistill.models.backbone import Tap

PLAIN: dict[str, Any] = {"color_jitter": None, "lighting_std": 0}


def pooled(model: Any, pixels: Tensor) -> Tensor:
    tokens = said_by(model, pixels, Tap("norm", model.depth))
    return tokens[:, model.num_prefix_tokens :].mean(dim=1)


def logit_kd(num_classes: int | str, classes: int = 7, **options: Any) -> Any:
    config = SECTIONS["logit_kd"].model_validate({**PLAIN, **options})
    models = student(), teacher(torch.float32, num_classes=classes)
    return build_method(Ingredients("logit_kd", *models, config, num_classes=num_classes))


@torch.no_grad()
@pytest.mark.parametrize("known", [7, 5])
def test_scores_of_a_teacher_and_labels(known: int) -> None:
    """One classifier where both tell as many classes apart, else two."""
    method = logit_kd(known, logits_weight=0.5, labels_weight=2.0, logits_temperature=3.0).train()
    pictures = batch()
    pictures.labels = torch.tensor([4, -1, 0])
    losses = method(pictures)
    feature = pooled(method.student, pictures.pixels)
    wanted = said_by(method.teacher, pictures.pixels, Tap("logits", 3))
    p, t = (method.classifier(feature) / 3).log_softmax(1), (wanted / 3).softmax(1)
    kl = 9 * (t * (t.log() - p)).sum(1).mean()
    head = method.classifier if known == 7 else method.label_classifier
    labels = F.cross_entropy(head(feature)[[0, 2]], torch.tensor([4, 0]))
    torch.testing.assert_close(losses.terms["logits"], kl)
    torch.testing.assert_close(losses.terms["labels"], labels)
    torch.testing.assert_close(losses.total, 0.5 * kl + 2 * labels)


def test_without_labels_the_way_out_is_named() -> None:
    with pytest.raises(UserError, match=r"have no labels; method.labels_weight=0 learns from"):
        logit_kd("the pictures have no labels")
    assert logit_kd("the pictures have no labels", labels_weight=0).label_classifier is None
    with pytest.raises(UserError, match=r"logit_kd needs a teacher with its classifier; write ,cl"):
        build("logit_kd", student(), teacher(), labels_weight=0)


def relation_kd(theirs: Any = None, ours: Any = None, **options: Any) -> Any:
    options = {**PLAIN, "queue_size": 5, **options}
    return build("relation_kd", ours or student(), theirs or teacher(torch.float32), **options)


def kl(ours: Tensor, theirs: Tensor) -> Tensor:
    p, t = ours.log_softmax(-1), theirs.log_softmax(-1)
    return (t.exp() * (t - p)).sum(-1).mean()


@torch.no_grad()
def test_relations_to_the_batch_and_to_earlier_pictures() -> None:
    """A queue of five, filled by batches of three: 3, then 6, then 8 keys."""
    method = relation_kd(global_temperature=0.2, global_weight=0.5, local_weight=0).train()
    past = torch.zeros(0, 24)
    for step in range(4):
        pictures = batch(seed=step)
        target = F.normalize(pooled(method.teacher, pictures.pixels), dim=1)
        keys = torch.cat([target, past])
        said = F.normalize(method.projector(pooled(method.student, pictures.pixels)), dim=1)
        wanted = kl(said @ keys.mT / 0.2, target @ keys.mT / 0.2)
        assert len(keys) == (3, 6, 8, 8)[step]
        method.eval()
        asked = method(pictures)  # leaves the queue alone
        method.train()
        losses = method(pictures)
        torch.testing.assert_close(losses.terms["global"], wanted)
        torch.testing.assert_close(losses.total, 0.5 * wanted)
        torch.testing.assert_close(asked.total, losses.total)
        past = keys[:5]
    torch.testing.assert_close(method.queue, past)


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [12, 16])
def test_relations_of_patches(patch_size: int) -> None:
    """Of equal grids, and of nine patches that become sixteen."""
    theirs = teacher(torch.float32, patch_size=patch_size)
    method = relation_kd(theirs, global_weight=0, local_temperature=0.3).train()
    pictures = batch()
    tokens = said_by(theirs, pictures.pixels, Tap("norm", 3))[:, 2:]
    if patch_size == 16:
        grid = tokens.mT.unflatten(2, (3, 3))
        tokens = F.interpolate(grid, (4, 4), mode="bicubic", align_corners=False).flatten(2).mT
    said = said_by(method.student, pictures.pixels, Tap("norm", 2))[:, 1:]
    ours, wanted = (F.normalize(side, dim=2) for side in (said, tokens))
    found = method(pictures)
    torch.testing.assert_close(found.total, kl(ours @ ours.mT / 0.3, wanted @ wanted.mT / 0.3))
    assert set(found.terms) == {"local"}
    assert not list(method.buffers(recurse=False))


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    theirs = student()
    method = relation_kd(theirs, student(), projector="identity").train()
    losses = method(batch())
    torch.testing.assert_close(losses.total.detach(), torch.tensor(0.0), atol=1e-5, rtol=0)
    losses.total.backward()
    with pytest.raises(UserError, match="projector=identity needs equal widths"):
        relation_kd(projector="identity")


def test_what_a_resume_brings_back_is_the_queue() -> None:
    """Weights and queue as they were: the next losses and gradients are the same, bit by bit."""
    whole, again = relation_kd().train(), relation_kd().train()
    for step in range(3):
        whole(batch(seed=step))
    again.load_state_dict(whole.state_dict())
    for step in (3, 4):
        found = [method(batch(seed=step)).total for method in (whole, again)]
        assert torch.equal(*found)
    found[0].backward()
    found[1].backward()
    for ours, theirs in zip(whole.parameters(), again.parameters(), strict=True):
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


@torch.no_grad()
@pytest.mark.parametrize("name", ["logit_kd", "relation_kd"])
def test_several_students_learn_as_if_alone(name: str) -> None:
    theirs = teacher(torch.float32, num_classes=7)
    options = {"labels_weight": 0} if name == "logit_kd" else {"queue_size": 4}

    def made(**sizes: Any) -> Any:
        torch.manual_seed(0)
        return build(name, student(**sizes), theirs, **PLAIN, **options)

    sizes: dict[str, dict[str, Any]] = {"a": {}, "b": {"embed_dim": 8, "depth": 1}}
    both = MultiStudent({key: made(**own) for key, own in sizes.items()}).train()
    alone = {key: made(**own).train() for key, own in sizes.items()}
    for step in range(2):
        found = both(batch(seed=step))
        for key, method in alone.items():
            assert torch.equal(found.terms[key], method(batch(seed=step)).total)


def test_maps_that_have_no_relations() -> None:
    with pytest.raises(UserError, match="the student has 1 of them and the teacher 16"):
        relation_kd(ours=student(patch_size=32))
    relation_kd(ours=student(patch_size=32), local_weight=0)
