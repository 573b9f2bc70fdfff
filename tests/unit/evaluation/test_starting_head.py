"""Fine-tuning that starts from rows of a head of more classes."""

import json

import numpy as np
import pytest
import torch

from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.saved_classifier import Head, head_rows, put_head
from vistill.models.vit import VisionTransformer


def head(pool="avg") -> Head:
    state = {"head.weight": torch.arange(28.0).view(7, 4), "head.bias": torch.arange(7.0)}
    norm = {"fc_norm.weight": torch.full((4,), 2.0), "fc_norm.bias": torch.ones(4)}
    return Head(state | (norm if pool == "avg" else {}), pool, None, "file:tuned.pth")


def test_first_rows():
    found = head_rows(head(), 3, "first")
    assert found.outputs == 3
    assert torch.equal(found.state["head.bias"], torch.arange(3.0))
    assert torch.equal(found.state["fc_norm.weight"], torch.full((4,), 2.0))


def test_rows_of_a_list(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps([6, 0, 6]))
    found = head_rows(head(), 3, str(tmp_path / "map.json"))
    assert torch.equal(found.state["head.weight"], head().state["head.weight"][[6, 0, 6]])


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[0, 1]", "holds 2 rows, and there are 3 classes"),
        ("[0, 1, 7]", "asks for row 7 .* has 7"),
        ("[0, 1, -1]", "list of numbers of rows"),
        ('{"a": 0}', "list of numbers of rows"),
        ("[0, 1, true]", "list of numbers of rows"),
        ("[0,", "is no JSON"),
    ],
)
def test_wrong_lists(tmp_path, written, message):
    (tmp_path / "map.json").write_text(written)
    with pytest.raises(UserError, match=message):
        head_rows(head(), 3, str(tmp_path / "map.json"))


def test_too_few_rows_and_slips():
    with pytest.raises(UserError, match=r"asks for row 8 .* has 7"):
        head_rows(head(), 9, "first")
    with pytest.raises(UserError, match="did you mean 'first'"):
        head_rows(head(), 3, "frist")


def test_a_head_of_another_feature_or_width():
    vit = VisionTransformer(image_size=16, patch_size=8, embed_dim=4, depth=1, num_heads=1)
    made = Classifier(vit, 3)
    put_head(made, head_rows(head(), 3, "first"))
    assert np.array_equal(made.head.bias.detach(), [0, 1, 2])
    with pytest.raises(UserError, match="is for pool=cls"):
        put_head(made, head_rows(head("cls"), 3, "first"))
    with pytest.raises(UserError, match="does not fit its backbone"):
        put_head(Classifier(vit, 5), head_rows(head(), 3, "first"))
