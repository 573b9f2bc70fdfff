"""Teachers in their published key layouts: blocks, feature maps and whitened targets."""

import pytest
import torch
from names import batch_of
from test_feature_distillation_golden import unit_pixels

from vistill.config.methods import FeatureDistillationConfig
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.models.backbone import Backbone, Tap
from vistill.models.files.checkpoints import vit_from_state
from vistill.models.vit import VisionTransformer


def check_targets(case, teacher: Backbone, images: torch.Tensor, student: Backbone) -> None:
    """The map before and after the final norm, and both whitened targets."""
    close = {"atol": case.atol, "rtol": case.rtol}
    last = teacher.depth
    taps = Tap("block", last), Tap("norm", last)
    found = teacher.eval().tap(images, taps)
    for tap, name in zip(taps, ("featuremap", "featuremap_normed"), strict=True):
        torch.testing.assert_close(found[tap], case.output[name], **close)
    for after_norm, name in ((True, "target"), (False, "target_without_final_norm")):
        config = FeatureDistillationConfig(after_norm=after_norm)
        method = FeatureDistillation(student, teacher, config)
        method.theirs.images = lambda *_, **__: images
        found = method.target_of(method.features(batch_of(images)))
        torch.testing.assert_close(found, case.output[name], **close)


@pytest.mark.parametrize("name", ["teacher_dino_vit", "teacher_deit_vit", "teacher_clip_vit"])
def test_vit_teachers(golden, name):
    case = golden(name, "fd")
    model = case.config["model"]
    teacher = vit_from_state(case.state, name, model.get("num_heads", model.get("heads")))
    close = {"atol": case.atol, "rtol": case.rtol}
    images = teacher.normalization(unit_pixels(case.inputs["image"]))
    taps = [Tap("block", i + 1) for i in range(teacher.depth)]
    found = teacher.eval().tap(images, taps)
    for i, tap in enumerate(taps):
        expected = case.output.get(f"block.{i}")
        if expected is None:  # CLIP's tokens come first
            expected = case.output[f"block_LND.{i}"].transpose(0, 1)
            torch.testing.assert_close(images, case.output["image_clip_normalised"], **close)
        torch.testing.assert_close(found[tap], expected, **close)
    student = VisionTransformer(
        image_size=teacher.image_size,
        patch_size=teacher.patch_size,
        embed_dim=8,
        depth=1,
        num_heads=2,
    )
    check_targets(case, teacher, images, student)
