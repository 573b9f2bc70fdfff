"""Published UMT checkpoints, stage 1 and fine-tuned, in and out (spec umt 12)."""

import pytest
import torch

import vistill
from vistill.config.finetune import FineTuneConfig
from vistill.config.umt import UMTConfig
from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier, build_classifier
from vistill.evaluation.saved_classifier import Head, read_head
from vistill.methods.umt import UMT
from vistill.models.build import create_backbone, load_backbone
from vistill.models.files.umt import published_umt_encoder
from vistill.models.files.videomae import published_names
from vistill.models.vit import VisionTransformer
from vistill.runs.published import export_published


def student(**other) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 3}
    clips = {"tubelet_size": 1, "num_frames": 4, "class_token": False, "qkv_bias": "no_key"}
    made = VisionTransformer(**sizes | clips | other)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    made.untrained = False
    return made


def method_of(model: VisionTransformer) -> UMT:
    teacher = VisionTransformer(image_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2)
    return UMT(model, teacher, UMTConfig(aligned_layers=2, mask_ratio=0.5))


def same_answers(found, model, but=()):
    values = model.state_dict()
    for name, value in found.state_dict().items():
        if not name.startswith(but):
            assert torch.equal(value, values[name]), name
    clips = torch.rand(2, 3, 4, 16, 16)
    assert torch.equal(found(clips), model(clips)) or but


def test_names_and_sizes_of_stage_1():
    with torch.device("meta"):
        model = create_backbone("vit_base", num_frames=8, tubelet_size=1)
        teacher = create_backbone("vit_base")
        teacher.keep_projection(torch.empty(768, 512))
        method = UMT(model, teacher)
    state = published_names(method.state_dict())
    assert len(state) == 184
    assert sum(value.numel() for value in state.values()) == pytest.approx(88.0e6, rel=1e-3)
    assert list(state["encoder.patch_embed.proj.weight"].shape) == [768, 3, 1, 16, 16]
    assert list(state["clip_decoder.5.head.weight"].shape) == [512, 768]
    # A classifier has fc_norm instead of norm, and a head: 162 tensors.
    assert len(published_umt_encoder(model)) == 160


def test_names_are_those_of_the_published_code(golden):
    case = golden("s1_train_steps", "umt")
    expected = {k.removeprefix("student.") for k in case.state if k.startswith("student.")}
    depth, layers = case.config["s_depth"], case.config["ret_layers"]
    model = student(depth=depth)
    teacher = VisionTransformer(image_size=16, patch_size=8, embed_dim=8, depth=layers, num_heads=2)
    method = UMT(model, teacher, UMTConfig(aligned_layers=layers, mask_ratio=0.5))
    assert set(published_names(method.state_dict())) == expected


@pytest.mark.parametrize("wrapped", [None, "model", "module"])
@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_stage_1_comes_in_as_it_went_out(tmp_path, wrapped, position):
    model = student(position=position)
    state = published_names(method_of(model).state_dict()) | published_umt_encoder(model)
    assert any(name.startswith("clip_decoder.") for name in state)
    torch.save(state if wrapped is None else {wrapped: state, "epoch": 3}, tmp_path / "s1.pth")
    found = load_backbone(f"file:{tmp_path}/s1.pth,num_heads=3,image_size=16", num_frames=4)
    assert found.position == position
    same_answers(found, model)


def test_published_stage_1_is_of_eight_frames(tmp_path):
    model = student(image_size=224, patch_size=16)
    torch.save(published_umt_encoder(model), tmp_path / "s1.pth")
    found = load_backbone(f"file:{tmp_path}/s1.pth,num_heads=3")
    assert (found.num_frames, found.image_size, found.tubelet_size) == (8, (224, 224), 1)


def test_its_norm_is_left_to_the_classifiers_own(tmp_path):
    model = student()
    torch.nn.init.normal_(model.norm.weight)
    torch.save(published_umt_encoder(model), tmp_path / "s1.pth")
    found = load_backbone(f"file:{tmp_path}/s1.pth,num_heads=3,image_size=16", num_frames=4)
    options = FineTuneConfig(drop_path=0.0)
    made = build_classifier(found, 3, image_size=16, pool="avg", options=options, seed=0)
    assert torch.equal(made.fc_norm.weight, torch.ones(12))
    assert not made.student.norm.weight.requires_grad


@pytest.mark.parametrize("wrapped", [None, "model", "module"])
def test_a_file_that_holds_nothing_of_it_is_an_error(tmp_path, wrapped):
    state = {"clip_decoder.0.head.weight": torch.zeros(2, 2), "epoch": torch.zeros(())}
    torch.save(state if wrapped is None else {wrapped: state}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd.pth is not a plain ViT"):
        load_backbone(f"file:{tmp_path}/odd.pth")


def tuned(model: VisionTransformer) -> tuple[Classifier, Head]:
    classifier = Classifier(model, 5).eval()
    for parameter in (*classifier.fc_norm.parameters(), *classifier.head.parameters()):
        torch.nn.init.normal_(parameter)
    parts = ("fc_norm.", "head.")
    state = {k: v for k, v in classifier.state_dict().items() if k.startswith(parts)}
    return classifier, Head(state, "avg", None, "here")


@pytest.mark.parametrize("table_grid", [None, (8, 14, 14)])
def test_a_classifier_goes_out_and_comes_in(golden, tmp_path, table_grid):
    case = golden("ft_vit_forward", "umt")
    config = case.config
    model = student(
        image_size=config["res"], embed_dim=config["dim"], depth=config["depth"], num_heads=4,
        num_frames=config["frames"], table_grid=table_grid,
    )  # fmt: skip
    classifier, head = tuned(model)
    file = export_published(model, "umt", tmp_path, head=head)
    assert torch.load(file, weights_only=True).keys() == case.state.keys()
    reference = f"file:{file},num_heads=4,image_size={config['res']}"
    found = load_backbone(reference)
    assert found.table_grid == table_grid
    again = Classifier(found, 5).eval()
    again.load_state_dict(read_head(reference).state, strict=False)
    clips = torch.rand(2, 3, config["frames"], config["res"], config["res"])
    torch.testing.assert_close(again.logits(clips), classifier.logits(clips))


def test_a_table_that_the_files_have_no_place_for_is_refused(tmp_path):
    model = student(image_size=112, num_frames=8)  # as many tokens as published
    _, head = tuned(model)
    state = torch.load(export_published(model, "umt", tmp_path, head=head), weights_only=True)
    assert "pos_embed" not in state
    other = student(image_size=112, num_frames=8, table_grid=(4, 7, 7))
    with pytest.raises(UserError, match="no table of positions for 1568 tokens"):
        export_published(other, "umt", tmp_path, head=head)


def test_other_models_are_refused(tmp_path):
    for other in ({"class_token": True}, {"qkv_bias": "all"}, {"position": "none"}):
        with pytest.raises(UserError, match="UMT's files hold models"):
            vistill.export(student(**other), out=tmp_path, format="umt")
    assert vistill.export(student(), out=tmp_path, format="umt")
    assert vistill.load_backbone(f"file:{tmp_path}/checkpoint.pth,num_heads=3")
