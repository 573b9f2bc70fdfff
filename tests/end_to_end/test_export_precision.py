"""ONNX in fp16 and int8, and exported files measured by the evaluators of models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vistill
from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.saved_classifier import save_classifier
from vistill.models.export import save_backbone
from vistill.models.vit import VisionTransformer

QUICK = {"device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, a backbone and a classifier that tells them apart."""
    folder = tmp_path_factory.mktemp("precision")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 6)):
        for name, tint in (("blue", 2), ("red", 0)):
            (folder / "pictures" / part / name).mkdir(parents=True)
            for n in range(count):
                noise = rng.integers(0, 200, (24, 24, 3))
                noise[..., tint] += 50
                file = folder / "pictures" / part / name / f"{n}.png"
                Image.fromarray(noise.astype(np.uint8)).save(file)
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    vit.untrained = False
    save_backbone(vit, folder / "backbone")
    made = Classifier(vit, 2)
    torch.nn.init.normal_(made.head.weight)
    save_classifier(made.eval(), folder / "classifier", ["blue", "red"], None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_file_is_measured_as_the_model_is(place, tmp_path, precision):
    onnxruntime = pytest.importorskip("onnxruntime")
    calibrate = place / "pictures" / "train" if precision == "int8" else None
    found = {}
    for name, protocols in (("backbone", ["knn"]), ("classifier", ["test"])):
        out = tmp_path / name
        vistill.export(
            place / name, out=out, format="onnx", precision=precision, calibrate=calibrate
        )
        told = json.loads((out / "onnx.json").read_text())
        assert told["precision"] == precision
        assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "onnx.json"]
        if precision == "fp32":
            assert "off_by" not in told
        else:
            most = 5e-3 if precision == "fp16" else 0.1
            assert {*told["off_by"]} == {*told["outputs"]}
            assert 0 < max(told["off_by"].values()) < most
        session = onnxruntime.InferenceSession(out / "model.onnx")
        for count in (1, 5):
            (first, *_) = session.run(None, {"pixels": np.zeros((count, 3, 16, 16), np.float32)})
            assert len(first) == count
            assert first.dtype == np.float32
        for model in (place / name, out):
            result = vistill.evaluate(
                model, data=place / "pictures", protocols=protocols, overrides=QUICK
            )
            found[name, model == out] = [one.top1 for one in result.scores]
        near = 0.0 if precision == "fp32" else 0.1
        assert found[name, True] == pytest.approx(found[name, False], abs=near)
    types = {one.data_type for one in _weights(tmp_path / "backbone" / "model.onnx")}
    assert {"fp32": 1, "fp16": 10, "int8": 3}[precision] in types
    # What only answers is not trained, and has what was exported.
    with pytest.raises(UserError, match="only answers, and finetune trains it"):
        vistill.evaluate(
            tmp_path / "backbone",
            data=place / "pictures",
            protocols=["finetune"],
            overrides=QUICK,
        )
    if precision == "fp32":
        with pytest.raises(UserError, match="gives no features, but logits and probabilities"):
            vistill.evaluate(
                tmp_path / "classifier",
                data=place / "pictures",
                protocols=["knn"],
                overrides=QUICK,
            )
        with pytest.raises(UserError, match="has no head"):
            vistill.evaluate(
                tmp_path / "backbone",
                data=place / "pictures",
                protocols=["test"],
                overrides=QUICK,
            )
        robust = vistill.evaluate(
            tmp_path / "classifier" / "model.onnx",
            data=place / "pictures",
            protocols=["robustness"],
            overrides=QUICK
            | {
                "robustness.corruptions": ["fog"],
                "robustness.severities": [1],
                "robustness.size": 24,
                "robustness.reference": str(place / "classifier"),
            },
        ).robustness
        assert robust.relative is None or robust.relative.value == pytest.approx(100)


def _weights(file: Path):
    onnx = pytest.importorskip("onnx")
    return onnx.load(file).graph.initializer


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "onnx", "precision": "int9"}, "unknown precision 'int9'; did you mean 'int8'"),
        ({"format": "timm", "precision": "fp16"}, "format timm has fp32 alone; use --format onnx"),
        ({"format": "onnx", "precision": "int8"}, "needs pictures to calibrate on"),
        ({"format": "onnx", "calibrate": "x"}, "--calibrate x is for --precision int8"),
        ({"format": "onnx", "precision": "int8", "calibrate": "{}/nowhere"}, "nowhere"),
        ({"format": "onnx", "precision": "int8", "calibrate": "{}/broken"}, "broken"),
        ({"format": "onnx", "precision": "int8", "calibrate": "{}/empty"}, "empty"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(place, tmp_path, given, message):
    (place / "broken").mkdir(exist_ok=True)
    (place / "broken" / "a.png").write_bytes(b"no picture")
    (place / "empty").mkdir(exist_ok=True)
    words = {key: value.format(place) for key, value in given.items()}
    with pytest.raises(UserError, match=message):
        vistill.export(place / "backbone", out=tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_a_file_of_others_says_what_it_lacks(place, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"has no onnx.json beside it"):
        vistill.evaluate(tmp_path / "net.onnx", data=place / "pictures", overrides=QUICK)
    (tmp_path / "onnx.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="cannot read the ONNX export in"):
        vistill.evaluate(tmp_path, data=place / "pictures", overrides=QUICK)
