"""Every method's step on a CUDA device that is not there: nothing is on the host, nothing is read
by it, and no two devices meet (`fake_cuda`)."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from building import SECTIONS, build
from fake_cuda import CUDA, Device, batch_on_fake_cuda, on_fake_cuda
from torch import Tensor
from torch._subclasses import FakeTensorMode
from unequal import CLIPS, batch, student, teacher

from vistill.batch import Batch
from vistill.config.baselines import LogitKDConfig
from vistill.config.finetune import FineTuneConfig
from vistill.config.umt import UMTMultimodalConfig
from vistill.evaluation.classifier import Classifier
from vistill.evaluation.detection.detector import ActionDetector, DetectionBatch
from vistill.losses.baselines import logits_kl
from vistill.losses.feature import DISTANCES
from vistill.losses.video_text import Words
from vistill.methods import METHODS
from vistill.methods.base import Method
from vistill.methods.kdep import KDEP
from vistill.methods.logit_kd import LogitKD
from vistill.methods.multi_student import MultiStudent
from vistill.methods.supervised import Supervised
from vistill.methods.umt_multimodal import UMTMultimodal
from vistill.methods.umt_questions import UMTQuestions
from vistill.methods.umt_retrieval import UMTRetrieval
from vistill.models.build import load_backbone
from vistill.models.precision import keep_weights, run_in
from vistill.models.swin import SwinBackbone
from vistill.models.text.answering import Answerer
from vistill.models.text.bert import BertSizes, SplitBert
from vistill.models.text.video_text import VideoText

SMALL = {"embed_dim": 8, "depth": 1, "num_heads": 2}
CLIP: dict[str, Any] = {"class_token": False, **CLIPS}
WORDS = Words(40, pad=0, cls=1, mask=3)


def theirs(**changes: Any) -> Any:
    return teacher(torch.float32, distillation_token=False, **changes)


def umt(**options: Any) -> Method:
    return build("umt", student(**CLIP), teacher(torch.float32), aligned_layers=2, **options)


def bert() -> SplitBert:
    return SplitBert(BertSizes(40, width=16, layers=2, fusion_layer=1, heads=2, positions=16,
                               vision_width=16))  # fmt: skip


def of_frames() -> Any:
    return student(**CLIP | {"tubelet_size": 1})


def multimodal() -> Method:
    config = UMTMultimodalConfig(embedding=8, alignment={"aligned_layers": 2})
    joint = VideoText(bert(), 8)
    return UMTMultimodal(of_frames(), teacher(torch.float32), joint, WORDS, config)


def several() -> Method:
    one = theirs()
    pupils = {"a": student(), "b": student(embed_dim=8, depth=1)}
    return MultiStudent({n: build("feature_distillation", s, one) for n, s in pupils.items()})


def swin() -> SwinBackbone:
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (2, 2)}
    return SwinBackbone(version=2, num_heads=(1, 2), window_size=4, **sizes)


def kdep(**options: Any) -> Method:
    config = SECTIONS["kdep"].model_validate(options)
    labels = 5 if config.labels_weight else None
    method = KDEP(student(), theirs(), config, num_classes=labels)
    fit = method.target_fit(40)
    if fit is not None:
        fit.add(batch(40))
        method.use_fit(fit.result())
    return method


def logit_kd() -> Method:
    teacher = theirs(num_classes=7)
    return LogitKD(student(), teacher, LogitKDConfig(logits_entropy=0.9), num_classes=5)


STEPS: dict[str, Callable[[], Method]] = {
    "mae": lambda: build("mae", student(), decoder=SMALL, drop_path=0.2),
    "videomae": lambda: build("videomae", student(**CLIP), mask_ratio=0.75, decoder=SMALL),
    "tinymim": lambda: build("tinymim", student(), theirs(), drop_path=0.2),
    "tinymim, feature": lambda: build(
        "tinymim", student(), theirs(), target="feature", input="masked"
    ),
    "feature_distillation": lambda: build("feature_distillation", student(), theirs()),
    "feature_distillation, Swin": lambda: build("feature_distillation", swin(), swin()),
    "kdep": kdep,
    "kdep, several parts": lambda: kdep(
        color_jitter=(0.4, 0.4, 0.4),
        lighting_std=0.1,
        transform="sn",
        loss="relational",
        stages=[["blocks.0", "blocks.1"]],
        labels_weight=1.0,
    ),
    "amd": lambda: build("amd", student(), theirs(), reconstruction={"decoder": SMALL}),
    "amd, clips": lambda: build("amd", student(**CLIP), theirs(**CLIPS, class_token=False)),
    "umt": umt,
    "umt, random": lambda: umt(mask="random"),
    "umt_multimodal": multimodal,
    "umt_retrieval": lambda: UMTRetrieval(of_frames(), VideoText(bert(), 8)),
    "umt_questions": lambda: UMTQuestions(of_frames(), Answerer(bert()), WORDS),
    "logit_kd": logit_kd,
    "relation_kd": lambda: build("relation_kd", student(), theirs(), queue_size=6),
    "relation_kd, Swin": lambda: build("relation_kd", swin(), theirs()),
    "supervised": lambda: Supervised(student(), 5),
    "fine-tuning": lambda: Classifier(
        student(),
        5,
        options=FineTuneConfig(mixup=0.8, cutmix=1.0, random_erasing=0.25, label_smoothing=0.1),
    ),
    "detection": lambda: ActionDetector(student(**CLIP), 5),
    "several students": several,
    "hooked teacher": lambda: build(
        "tinymim",
        student(image_size=64, patch_size=16),
        load_backbone("timm/test_vit2", image_size=64),
        block=1,
    ),
}


def batch_for(name: str) -> Batch:
    clips = any(word in name for word in ("clips", "videomae", "umt", "detection"))
    made = batch(4, frames=4 if clips else None)
    made.labels = torch.arange(4)
    text = torch.randint(4, 40, (4, 6))
    made.inputs = (
        {
            "text": text,
            "text_mask": text > 0,
            "answer": text[:, :3],
            "item": torch.arange(4),
            "sentence": torch.arange(4),
        }
        if name.startswith("umt_")
        else {}
    )
    if name == "detection":
        boxes = torch.tensor([[i, 2.0, 3.0, 20.0, 30.0] for i in (0, 0, 1, 3)])
        return DetectionBatch(**vars(made), boxes=boxes, actions=torch.ones(4, 5))
    return made


DEAR = ("umt_multimodal", "feature_distillation, Swin", "amd, clips")


@pytest.mark.parametrize("autocast", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEAR else []) for n in STEPS]
)
def test_a_step_stays_on_its_device(
    name: str, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = STEPS[name]().train()
    if method.teacher is not None and autocast:
        run_in(method.teacher, "bf16")
        keep_weights(method.teacher)
    made = batch_for(name)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.random.fork_rng", lambda _: nullcontext())
    with FakeTensorMode():
        on_fake_cuda(method)
        shown = batch_on_fake_cuda(made)
        with Device(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            losses = method(shown)
    assert losses.total.device == CUDA
    assert losses.total.dtype == torch.float32


def test_every_method_is_there() -> None:
    assert {name.partition(",")[0] for name in STEPS} >= METHODS.keys()


@pytest.mark.parametrize(
    "loss", [*DISTANCES.values(), logits_kl, partial(logits_kl, entropy_share=0.5)]
)
def test_a_loss_stays_on_its_device(loss: Callable[..., Tensor]) -> None:
    with FakeTensorMode():
        ours, theirs = (torch.empty(4, 6, device=CUDA) for _ in range(2))
        with Device():
            assert loss(ours, theirs).device == CUDA


def test_what_is_made_or_read_on_the_host_is_an_error() -> None:
    def table(x: Tensor) -> Tensor:
        return x * x.new_tensor([1.0, 2.0])

    def read(x: Tensor) -> Tensor:
        return x * float(x.sum())

    def choose(x: Tensor) -> Tensor:
        return x[x > 0]

    def mix(x: Tensor) -> Tensor:
        return x + cpu

    with FakeTensorMode():
        x, cpu = torch.empty(2, device=CUDA), torch.empty(2)
        for step in (table, read, choose, mix):
            with pytest.raises((AssertionError, RuntimeError)), Device():
                step(x)
