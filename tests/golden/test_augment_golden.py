"""The common crop of TinyMIM's two views, and the evaluation view, against the published code."""

import pytest
import torch

from vistill.augment.crops import Box, crop, resize
from vistill.data import EvalTransform

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture
def case(golden):
    return golden("augment_two_view")


def picture(case) -> torch.Tensor:
    image = case.inputs["image_u8"]
    image = image.squeeze(0) if image.ndim == 4 else image
    return image if image.shape[0] == 3 else image.permute(2, 0, 1)


def channels_first(view: torch.Tensor) -> torch.Tensor:
    return view if view.shape[0] == 3 else view.permute(2, 0, 1)


def test_crop_and_flip(case) -> None:
    size = case.config["size"]
    ours = resize(crop(picture(case), Box(*case.info["crop_ijhw"])), size, size, "bicubic")
    ours = ours.flip(-1) if case.info["flip"] else ours
    theirs = channels_first(case.output["crop_u8"])
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_teacher_view_is_the_normalised_crop(case) -> None:
    crop_u8 = channels_first(case.output["crop_u8"])
    view = (crop_u8.float() / 255 - MEAN) / STD
    torch.testing.assert_close(view, case.output["teacher_view"], atol=case.atol, rtol=case.rtol)


def test_eval_view(case) -> None:
    ours = EvalTransform(case.config["size"])(picture(case))
    theirs = (case.output["eval_view"] * STD + MEAN) * 255
    assert (ours - theirs).abs().max() <= 1.001
