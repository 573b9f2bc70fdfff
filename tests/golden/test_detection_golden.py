"""The action detector against the published detection code of VideoMAE."""

import torch

from vistill.evaluation.detection.boxes import enlarge_boxes
from vistill.evaluation.detection.detector import ActionDetector, action_loss, within
from vistill.models.vit import VisionTransformer


def test_boxes_logits_and_loss(golden):
    case = golden("ava_forward", "amd")
    config, close = case.config, {"atol": case.atol, "rtol": case.rtol}
    backbone = VisionTransformer(
        image_size=config["img_size"], patch_size=16, embed_dim=config["dim"],
        depth=config["depth"], num_heads=config["heads"], mlp_ratio=2, class_token=False,
        num_frames=config["frames"], tubelet_size=2, qkv_bias="no_key",
    )  # fmt: skip
    detector = ActionDetector(backbone, config["classes"]).eval()
    state = {k if k.startswith("head.") else f"student.{k}": v for k, v in case.state.items()}
    missing, unexpected = detector.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["student.pos_embed"], [])
    clips = case.inputs["video"]
    given = [case.inputs[f"boxes_{i}"] for i in range(len(clips))]
    numbered = torch.cat(
        [torch.cat([torch.full((len(b), 1), i), b], dim=1) for i, b in enumerate(given)]
    )
    enlarged = within(enlarge_boxes(numbered[:, 1:]), numbered, clips)
    torch.testing.assert_close(enlarged[:, 1:], case.output["extended_boxes"], **close)
    logits = detector.detect(clips, numbered)
    torch.testing.assert_close(logits, case.output["logits"], **close)
    loss = action_loss(logits, case.inputs["labels"])
    torch.testing.assert_close(loss, case.output["loss"], **close)
