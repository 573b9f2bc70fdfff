"""Pixels of clips against the published code of AMD and VideoMAE."""

import pytest
import torch
import torch.nn.functional as F

from vistill.augment.crops import Box
from vistill.data.video.sampling import dense_views, segment_views
from vistill.data.video.transforms import (
    VideoTestTransform,
    crop_clip,
    multi_scale_boxes,
    resize_clip,
)
from vistill.models.backbone import Normalization


def channels_first(video: torch.Tensor) -> torch.Tensor:
    return video.permute(3, 0, 1, 2)


def normalized(clip: torch.Tensor) -> torch.Tensor:
    return Normalization()(clip[None].float() / 255)[0]


def test_crops_of_pre_training(golden):
    case = golden("pretrain_transform", "amd")
    height, width = case.config["hw"]
    size = case.config["size"]
    boxes = multi_scale_boxes(height, width, size)
    assert [(anchors[0].width, anchors[0].height) for anchors in boxes] == [
        (pair["w"], pair["h"]) for pair in case.info["pairs"]
    ]
    for anchors, pair in zip(boxes, case.info["pairs"], strict=True):
        assert [[box.left, box.top] for box in anchors] == pair["offsets_xy"]

    left, top, width, height = case.inputs["box_xywh"].tolist()
    # This box reaches two rows below the frame, where Pillow gives black; drawn ones never do.
    video = F.pad(channels_first(case.inputs["video"]), (0, 0, 0, 2))
    clip = crop_clip(video, Box(top, left, height, width))
    found = normalized(resize_clip(clip, size, size))
    torch.testing.assert_close(found, case.output["clip"], atol=case.atol, rtol=case.rtol)


@pytest.mark.parametrize("name", ["test_views_dense", "test_views_segments"])
def test_pixels_of_test_views(golden, name):
    case = golden(name, "amd")
    n, frames, clips = (case.config[key] for key in ("n_frames", "clip_len", "segments"))
    if case.config["dense"]:
        chosen = dense_views(n, frames, case.config["stride"], clips)
    else:
        chosen = segment_views(n, frames, clips)
    video = channels_first(case.inputs["video"])[:, chosen.ravel()]
    views = VideoTestTransform(case.config["size"], clips, case.config["crops"])(video)
    assert len(views) == clips * case.config["crops"]
    for clip, crop in case.config["store"]:
        found = normalized(views[clip * case.config["crops"] + crop])
        torch.testing.assert_close(
            found, case.output[f"view_c{clip}_s{crop}"], atol=case.atol, rtol=case.rtol
        )
