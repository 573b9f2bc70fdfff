"""UMT's fine-tuning, tests and action detection as its code has them (spec umt 7, 8)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases

from vistill.augment.mixing import Mix, apply_mix, smoothed_targets
from vistill.config.finetune import FineTuneConfig
from vistill.data.video.sampling import clip_views, segment_clip, segment_views
from vistill.evaluation.classifier import (
    build_classifier,
    prepare_backbone,
    soft_cross_entropy,
)
from vistill.evaluation.detection.boxes import clip_boxes, enlarge_boxes, moved_sides
from vistill.evaluation.detection.clips import View, frames_of_span
from vistill.evaluation.detection.detector import ActionDetector, action_loss, within
from vistill.evaluation.finetune import finetune_groups
from vistill.evaluation.metrics import top_k_hits
from vistill.evaluation.saved_classifier import read_head
from vistill.evaluation.views import merge_views
from vistill.models.build import load_backbone, rebuild
from vistill.models.vit import VisionTransformer


class Drawn:
    """Stands for the generator: gives the recorded draws."""

    def __init__(self, draws: list[int]) -> None:
        self.draws = draws

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        assert all(low <= draw < high for draw in self.draws)
        return np.array(self.draws)


def test_frames_of_clips_and_views(golden):
    case = golden("ft_video_sampling", "umt")
    for number, (n, frames, clips) in enumerate(case.config["kin"]):
        middle = clip_views(n, frames, 1, "slices", 1)
        views = clip_views(n, frames, 1, "slices", clips)
        assert np.concatenate([middle, views]).tolist() == case.output[f"kin_{number}"].tolist()
    for number, (n, frames, clips) in enumerate(case.config["ssv2"]):
        middle = clip_views(n, frames, 1, "segments", 1)[0]
        assert middle.tolist() == case.output[f"ssv2_validation_{number}"].tolist()
        views = segment_views(n, frames, clips)
        assert views.T.ravel().tolist() == case.output[f"ssv2_test_{number}"].tolist()
    for number, (n, frames) in enumerate(case.config["pt"]):
        found = segment_clip(n, frames, Drawn(case.inputs[f"rand_{number}"].tolist()))
        if n < frames:  # the published clip of so short a video is its first frame alone
            assert set(found) == set(range(n))
            assert set(case.output[f"pt_{number}"].tolist()) == {0}
        else:
            assert found.tolist() == case.output[f"pt_{number}"].tolist()


def test_views_are_merged(golden):
    case = golden("ft_view_aggregation", "umt")
    logits, labels = case.inputs["logits"], case.inputs["labels"]
    videos, views, classes = logits.shape
    ids = torch.arange(videos).repeat_interleave(views)
    numbers = torch.arange(views).repeat(videos)
    rows = torch.cat([torch.randperm(videos * views), torch.arange(7)])
    merged = merge_views(
        logits.reshape(-1, classes)[rows], ids[rows], numbers[rows], torch.zeros_like(ids)[rows]
    )
    assert merged.probabilities.argmax(1).tolist() == case.output["pred"].tolist()
    for k in (1, 5):
        share = 100 * top_k_hits(merged.probabilities, labels, k) / videos
        assert share == pytest.approx(float(case.output[f"top{k}"]), rel=1e-9)


def test_frames_about_a_key_frame(golden):
    case = golden("ava_frame_sampling", "umt")
    for number, (n, frames, stride) in enumerate(case.config["rows"]):
        for sampling, flag in (("uniform", "false"), ("legacy_sparse", "true")):
            found = frames_of_span(n, frames, stride, sampling)
            assert found.tolist() == case.output[f"sparse_{flag}_{number}"].tolist()
            view = View(frames, stride, 256, (224, 224), False, 16, 0.5, sampling, n)
            assert (view.steps + n // 2).tolist() == found.tolist()


def test_box_jitter(golden):
    case = golden("ava_box_jitter", "umt")
    boxes = moved_sides(case.inputs["boxes"], case.inputs["u"][..., 0].T)
    boxes = clip_boxes(boxes, case.config["H"], case.config["W"])
    torch.testing.assert_close(boxes, case.output["boxes"], atol=case.atol, rtol=case.rtol)


def test_detector(golden):
    case = golden("ava_detector", "umt")
    config, close = case.config, {"atol": case.atol, "rtol": case.rtol}
    backbone = VisionTransformer(
        image_size=config["res"], patch_size=config["patch"], embed_dim=config["dim"],
        depth=config["depth"], num_heads=config["heads"], class_token=False, tubelet_size=1,
        num_frames=config["frames"], qkv_bias="no_key",
    )  # fmt: skip
    detector = ActionDetector(backbone, config["classes"]).eval()
    state = {k if k.startswith("head.") else f"student.{k}": v for k, v in case.state.items()}
    missing, unexpected = detector.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["student.pos_embed"], [])
    clips = case.inputs["video"]
    given = [case.inputs[f"boxes_{i}"] for i in range(len(clips))]
    numbered = torch.cat([F.pad(boxes, (1, 0), value=i) for i, boxes in enumerate(given)])
    enlarged = within(enlarge_boxes(numbered[:, 1:]), numbered, clips)
    torch.testing.assert_close(enlarged[:, 1:], case.output["extended_boxes"], **close)
    regions = []
    detector.head.register_forward_pre_hook(lambda _, seen: regions.append(seen[0]))
    logits = detector.detect(clips, numbered)
    torch.testing.assert_close(regions[0], case.output["roi_features"], **close)
    torch.testing.assert_close(logits, case.output["logits"], **close)
    torch.testing.assert_close(logits.sigmoid(), case.output["probabilities"], **close)
    loss = action_loss(logits, case.inputs["labels"])
    torch.testing.assert_close(loss, case.output["loss"], **close)
    loss.backward()
    parameters = {k.removeprefix("student."): p for k, p in detector.named_parameters()}
    assert case.grad
    for name, expected in case.grad.items():
        torch.testing.assert_close(parameters[name].grad, expected, **close)


@pytest.fixture
def published(golden, tmp_path):
    """A fine-tuned classifier as a file."""
    case = golden("ft_vit_forward", "umt")
    torch.save({"module": case.state}, tmp_path / "tuned.pth")
    config = case.config
    options = f"num_heads={config['heads']},image_size={config['res']}"
    return case, f"file:{tmp_path / 'tuned.pth'},{options}"


def test_fine_tuned_classifier(published):
    case, reference = published
    close = {"atol": case.atol, "rtol": case.rtol}
    head = read_head(reference)
    options = FineTuneConfig(drop_path=0.0, positions="interpolated")
    backbone = load_backbone(reference)
    assert (backbone.position, backbone.table_grid) == ("sincos", (8, 14, 14))
    classifier = build_classifier(
        backbone, case.config["classes"], image_size=case.config["res"], pool=head.pool,
        options=options, seed=0, num_frames=case.config["frames"],
    )  # fmt: skip
    classifier.load_state_dict(head.state, strict=False)
    assert not classifier.student.pos_embed.requires_grad
    clips, labels = case.inputs["video"], case.inputs["labels"]
    torch.testing.assert_close(classifier.features(clips), case.output["feature"], **close)
    logits = classifier.logits(clips)
    torch.testing.assert_close(logits, case.output["logits"], **close)
    smooth = smoothed_targets(labels, case.config["classes"], 0.1)
    loss = soft_cross_entropy(logits, smooth)
    torch.testing.assert_close(loss, case.output["loss_label_smoothing"], **close)
    _, mixed = apply_mix(clips, smooth, Mix(case.inputs["lam"], torch.zeros(4, dtype=torch.long)))
    torch.testing.assert_close(mixed, case.output["soft_target"], **close)
    loss = soft_cross_entropy(logits, mixed)
    torch.testing.assert_close(loss, case.output["loss_soft_target"], **close)
    loss.backward()
    parameters = {k.removeprefix("student."): p for k, p in classifier.named_parameters()}
    assert case.grad
    for name, expected in case.grad.items():
        torch.testing.assert_close(parameters[name].grad, expected, **close)


def test_positions_of_a_classifier_are_those_of_pretraining_interpolated(golden):
    case = golden("ft_vit_forward", "umt")
    config = case.config
    pretrained = VisionTransformer(
        image_size=14 * config["patch"], patch_size=config["patch"], embed_dim=config["dim"],
        depth=1, num_heads=config["heads"], class_token=False, tubelet_size=1, num_frames=8,
    )  # fmt: skip
    table = case.state["pos_embed"]
    for positions in ("anew", "interpolated"):
        found = prepare_backbone(pretrained, config["res"], "avg", config["frames"], positions)
        assert torch.allclose(found.pos_embed, table, atol=1e-5) == (positions == "interpolated")
    again = rebuild(found.build)
    torch.testing.assert_close(again.pos_embed, table, atol=1e-5, rtol=1e-5)


def test_learned_positions_of_another_size(golden):
    case = golden("ft_checkpoint_import", "umt")
    (frames, side), (new_frames, new_side) = case.config["src"], case.config["dst"]
    model = VisionTransformer(
        image_size=side, patch_size=1, embed_dim=case.config["d"], depth=1, num_heads=1,
        class_token=False, tubelet_size=case.config["tub"], num_frames=frames, position="learned",
    )  # fmt: skip
    model.pos_embed.data = case.inputs["pos_embed"]
    model.resize(new_side, new_frames)
    assert model.pos_embed.requires_grad
    torch.testing.assert_close(
        model.pos_embed.detach(), case.output["pos_embed"], atol=case.atol, rtol=case.rtol
    )


def test_parameter_groups(published):
    _, reference = published
    index = cases("umt")["ft_param_groups"]
    settings = index["config"]
    options = FineTuneConfig(weight_decay=settings["wd"], layer_decay=settings["layer_decay"])
    classifier = build_classifier(
        load_backbone(reference), settings["classes"], image_size=settings["res"], pool="avg",
        options=options, seed=0,
    )  # fmt: skip
    names = {id(p): k.removeprefix("student.") for k, p in classifier.named_parameters()}
    found = {
        names[id(p)]: [group["weight_decay"], group["lr_scale"]]
        for group in finetune_groups(classifier, options)
        for p in group["params"]
    }
    # The published table is a parameter that no gradient reaches.
    assert index["finetune_groups"].keys() - found.keys() == {"pos_embed"}
    assert found == {k: pytest.approx(index["finetune_groups"][k]) for k in found}
