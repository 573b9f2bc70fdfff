"""Fine-tuning and multi-view testing of clips against the published code of AMD and VideoMAE."""

import pytest
import torch
from torch import nn

from vistill.augment.mixing import Mix, apply_mix, smoothed_targets
from vistill.config.finetune import FineTuneConfig
from vistill.config.optim import OptimConfig
from vistill.evaluation.classifier import (
    Classifier,
    build_classifier,
    prepare_backbone,
    soft_cross_entropy,
)
from vistill.evaluation.finetune import finetune_groups
from vistill.evaluation.metrics import top_k_hits
from vistill.evaluation.saved_classifier import read_head
from vistill.evaluation.views import merge_views
from vistill.models.build import load_backbone
from vistill.models.vit import VisionTransformer
from vistill.training.optim import adamw, set_lr

PLAIN = FineTuneConfig(drop_path=0.0, layer_decay=0.75, weight_decay=0.05)


def clip_vit(config: dict) -> VisionTransformer:
    return VisionTransformer(
        image_size=tuple(config["img_size"]),
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        num_frames=config["frames"],
        tubelet_size=config["tubelet"],
        class_token=False,
        qkv_bias="no_key",
    )


def classifier_of(backbone: VisionTransformer, classes: int, options=PLAIN) -> Classifier:
    return build_classifier(
        backbone,
        classes,
        image_size=backbone.image_size[0],
        pool="avg",
        options=options,
        seed=0,
        num_frames=backbone.num_frames,
    )


def load(classifier: Classifier, state: dict) -> None:
    head = ("fc_norm.", "head.")
    renamed = {k if k.startswith(head) else f"student.{k}": v for k, v in state.items()}
    missing, unexpected = classifier.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert set(missing) <= {"student.norm.weight", "student.norm.bias", "student.pos_embed"}


def build(case) -> Classifier:
    classifier = classifier_of(clip_vit(case.config), case.config["classes"])
    load(classifier, case.state)
    return classifier


def test_clips_are_pooled_by_the_mean_of_all_tokens(golden):
    case = golden("ft_meanpool", "amd")
    classifier = build(case).eval()
    clips = case.inputs["video"]
    close = {"atol": case.atol, "rtol": case.rtol}
    torch.testing.assert_close(classifier.features(clips), case.output["pooled"], **close)
    torch.testing.assert_close(classifier.logits(clips), case.output["logits"], **close)


def test_a_published_fine_tuned_file_is_read_with_its_head(golden, tmp_path):
    case = golden("ft_meanpool", "amd")
    config = case.config
    torch.save({"module": case.state}, tmp_path / "published.pt")
    reference = f"file:{tmp_path / 'published.pt'},num_heads={config['heads']}"
    backbone, head = load_backbone(reference), read_head(reference)
    side = config["img_size"][0]
    backbone = prepare_backbone(backbone, side, head.pool, config["frames"])
    classifier = Classifier(backbone, config["classes"], pool=head.pool).eval()
    classifier.load_state_dict(head.state, strict=False)
    logits = classifier.logits(case.inputs["video"])
    torch.testing.assert_close(logits, case.output["logits"], atol=case.atol, rtol=case.rtol)


def test_one_step(golden):
    case = golden("ft_step", "amd")
    close = {"atol": case.atol, "rtol": case.rtol}
    classifier = build(case).train()
    optimizer = adamw(finetune_groups(classifier, PLAIN), OptimConfig(betas=(0.9, 0.999)))
    set_lr(optimizer, case.config["lr"][0])
    logits = classifier.logits(case.inputs["video"])
    loss = soft_cross_entropy(logits, case.inputs["soft_target"])
    loss.backward()
    norm = nn.utils.clip_grad_norm_(classifier.parameters(), torch.inf)
    found = {"logits": logits, "loss": loss, "grad_norm": norm}
    for key, value in found.items():
        torch.testing.assert_close(value, case.output[key], **close, msg=key)
    parameters = {k.removeprefix("student."): p for k, p in classifier.named_parameters()}
    for key, expected in case.grad.items():
        torch.testing.assert_close(parameters[key].grad, expected, **close, msg=key)
    optimizer.step()
    for key, expected in case.updated.items():
        torch.testing.assert_close(parameters[key].detach(), expected, **close, msg=key)


def facts_of(classifier: Classifier, options: FineTuneConfig) -> dict[str, dict[str, float]]:
    names = {id(p): k.removeprefix("student.") for k, p in classifier.named_parameters()}
    return {
        names[id(p)]: {"weight_decay": group["weight_decay"], "lr_scale": group["lr_scale"]}
        for group in finetune_groups(classifier, options)
        for p in group["params"]
    }


def test_groups_and_drop_path(golden):
    case = golden("ft_groups", "amd")
    backbone = VisionTransformer(
        image_size=16, patch_size=8, embed_dim=24, depth=case.config["depth"], num_heads=3,
        num_frames=4, tubelet_size=2, class_token=False, qkv_bias="no_key",
    )  # fmt: skip
    options = PLAIN.model_copy(update={"drop_path": case.config["drop_path"]})
    classifier = classifier_of(backbone, 3, options)
    found = facts_of(classifier, options)
    assert found.keys() == case.info["groups"].keys()
    for name, expected in case.info["groups"].items():
        assert found[name]["weight_decay"] == expected["weight_decay"], name
        assert found[name]["lr_scale"] == pytest.approx(expected["lr_scale"]), name
    rates = classifier.student.drop_path_rates
    assert rates == pytest.approx(case.info["drop_path_per_block"])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_clips_share_one_box_over_all_frames(golden, name):
    case = golden(name, "amd")
    config, close = case.config, {"atol": case.atol, "rtol": case.rtol}
    cut = config["use_cutmix"]
    mix = Mix(
        torch.tensor(1.0 if cut else config["lam"]),
        torch.tensor(config["box"] if cut else [0, 0, 0, 0]),
    )
    wanted = smoothed_targets(case.inputs["labels"], config["classes"], config["smoothing"])
    mixed, targets = apply_mix(case.inputs["video"], wanted, mix)
    torch.testing.assert_close(mixed, case.output["mixed"], **close)
    torch.testing.assert_close(targets, case.output["soft_target"], **close)
    loss = soft_cross_entropy(case.inputs["logits"], targets)
    torch.testing.assert_close(loss, case.output["loss"], **close)


def test_views_are_merged_and_duplicates_dropped(golden):
    case = golden("merge", "amd")
    logits, labels = case.inputs["logits"], case.inputs["labels"]
    videos, views, classes = logits.shape
    ids = torch.arange(videos).repeat_interleave(views)
    clips = (torch.arange(views) // case.config["crops"]).repeat(videos)
    crops = (torch.arange(views) % case.config["crops"]).repeat(videos)
    rows = torch.cat([torch.randperm(videos * views), torch.arange(7)])
    merged = merge_views(logits.reshape(-1, classes)[rows], ids[rows], clips[rows], crops[rows])
    assert merged.ids.tolist() == list(range(videos))
    torch.testing.assert_close(merged.probabilities, case.output["mean_prob"])
    for k in (1, 5):
        share = 100 * top_k_hits(merged.probabilities, labels, k) / videos
        assert share == pytest.approx(float(case.output[f"top{k}"]), abs=1e-3)


def test_fine_tuning_of_the_image_autoencoder(golden):
    case = golden("mae_finetune_gap", "amd")
    config = case.config
    backbone = VisionTransformer(
        image_size=config["img"], patch_size=config["patch"], embed_dim=config["dim"],
        depth=config["depth"], num_heads=config["heads"], mlp_ratio=config["mlp_ratio"],
    )  # fmt: skip
    options = PLAIN.model_copy(update={"layer_decay": config["layer_decay"]})
    classifier = classifier_of(backbone, config["classes"], options)
    load(classifier, case.state)
    classifier.eval()
    images, close = case.inputs["image"], {"atol": case.atol, "rtol": case.rtol}
    torch.testing.assert_close(classifier.features(images), case.output["feature"], **close)
    torch.testing.assert_close(classifier.logits(images), case.output["logits"], **close)
    found = facts_of(classifier, options)
    assert found.keys() == case.info["groups"].keys()
    for key, expected in case.info["groups"].items():
        assert found[key] == pytest.approx(expected), key
