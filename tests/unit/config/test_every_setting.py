"""Every setting there is, said aloud: it shows up in the resolved configuration, or it is refused
with a reason; and somewhere outside the configuration it is read."""

import ast
import itertools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import vistill
from vistill.config.evaluation import EvaluateConfig
from vistill.config.loading import build_config
from vistill.config.overrides import _types, parse_overrides
from vistill.config.problems import sections
from vistill.config.schema import RunConfig
from vistill.config.uses import idle_settings
from vistill.errors import UserError

Words = list[tuple[str, Any]]

# What else has to be said so that a setting has a use; of each, the first that does is taken.
BESIDE: list[Words] = [
    [],
    [("teacher", "x")],
    [("teacher", "x"), ("teacher.image_size", 96)],
    [("data.frames", 16)],
    [("data.frames", 16), ("data.sampling", "stretched")],
    [("data.frames", 16), ("data.crop", "resized")],
    [("optim.optimizer", "sgd")],
    [("optim.schedule", "step")],
    [("optim.schedule", "poly")],
    [("optim.schedule", "1cycle")],
    [("optim.schedule", "multistep"), ("optim.milestones", [7])],
    [("optim.schedule", "piecewise"), ("optim.pieces", [[0, 7]])],
    [("optim.schedule", "multistep")],
    [("optim.schedule", "piecewise")],
    [("cache", "folder")],
    [("student", "swinv2_tiny")],
    [("student", "timm/resnet18")],
    [("students.a", "vit_tiny")],
    [("method.target", "feature"), ("method.feature.kind", "ffn")],
    [("method.target", "feature")],
    [("method.target", "class_token")],
    [("method.target", "logits")],
    [("method.mask", "tube")],
    [("method.alignment.mask", "tube")],
    [("method.input", "masked")],
    [("method.input", "masked"), ("method.aux_mim.weight", 1.0)],
    [("method.align", "channel_random")],
    [("method.align", "interpolate")],
    [("method.transform", "sn")],
    [("method.transform", "sm_linear")],
    [("method.stages", [["a", "b"]])],
    [("method.logits_weight", 1.0)],
    [("protocols", ["retrieval"])],
    [("protocols", ["detection"])],
    [("protocols", ["detection"]), ("detection.detections", "x.csv")],
    [("protocols", ["detection"]), ("detection.sampling", "uniform")],
    [("protocols", ["segmentation"])],
    [("protocols", ["boxes"])],
    [("protocols", ["robustness"])],
    [("protocols", ["questions"])],
    [("finetune.optimizer", "sgd")],
    [("finetune.schedule", "step")],
    [("finetune.lr", None)],
    [("finetune.mixup", 0.5), ("finetune.cutmix", 0.5)],
    [("finetune.lrs", [0.1, 0.2])],
]


def leaves(schema: type[BaseModel], prefix: str = "", above: Words | None = None) -> Iterator[Any]:
    """Every setting: its key, its field, and the words that choose its section."""
    for name, field in schema.model_fields.items():
        inner = sections(field.annotation)
        for chosen, model in inner.items():
            method = [("method", chosen)] if chosen else (above or [])
            yield from leaves(model, f"{prefix}{name}.", method)
        if not inner and not (prefix == "method." and name == "name"):
            yield f"{prefix}{name}", field, above or []


def values(annotation: Any, default: Any) -> Iterator[Any]:
    """Some values of that kind, not all of which may be allowed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from values(arguments[0], default)
    elif origin is Literal:
        yield from arguments
    elif origin in (Union, types.UnionType):
        for part in arguments:
            yield from values(part, default)
    elif origin is tuple:
        inner = [list(values(one, None)) for one in arguments if one is not Ellipsis]
        yield from zip(*inner, strict=False)
        yield from itertools.islice(itertools.product(*inner), 30)
    elif annotation is bool:
        yield from (True, False)
    elif annotation is int:
        yield from (1, 2, 3, 4, 8, 48, 64, 96)
    elif annotation is float:
        yield from (0.5, 0.25, 0.75, 0.9, 1.5)
    elif annotation is str:
        yield from ("vit_tiny", "rand-m9", "mae_base", "ava_base", "kdep_voc", "tensorboard")
        yield from ("vitdet_base", "fog")
    elif origin is dict:
        yield from ({"a": {"model": "vit_tiny"}}, {"a": 1}, {"a": {"train": "x"}})


def found(config: BaseModel, key: str) -> Any:
    value: Any = config.model_dump()
    for part in key.split("."):
        value = value[part]
    return value


CASES = [
    pytest.param(
        schema,
        key,
        field,
        above,
        id="-".join([*(str(w[1]) for w in above), key]),
        marks=[pytest.mark.slow] if key.startswith("finetune.") else [],
    )
    for schema in (RunConfig, EvaluateConfig)
    for key, field, above in leaves(schema)
]


@pytest.mark.parametrize(("schema", "key", "field", "above"), CASES)
def test_a_setting_shows_up_or_is_refused(
    schema: type[BaseModel], key: str, field: FieldInfo, above: Words
) -> None:
    default = field.get_default(call_default_factory=True)
    wanted = [v for v in values(field.annotation, default) if v is not None and v != default]
    assert wanted, f"the test knows no value for {key}"
    shown_up, refusals = False, []
    section = key.partition(".")[0]
    # That of an evaluation's own protocol first, as each trial takes its time.
    for beside in sorted(BESIDE, key=lambda words: not any(section in str(v) for _, v in words)):
        said = {**dict(above), **dict(beside)}
        if shown_up or key in said or ("teacher" in said and key == "teacher.model"):
            continue
        for value in wanted:
            try:
                config = build_config(schema, {}, [*said.items(), (key, value)])
            except UserError as error:
                refusals.append(str(error))
                continue
            shown_up |= True
            dumped = found(config, key)
            if isinstance(value, dict):
                assert dumped.keys() == value.keys()
            else:
                assert dumped == value or value == (dumped, dumped)  # a square
    assert shown_up, f"{key} is refused everywhere: {set(refusals)}"


def test_every_setting_is_read_outside_the_configuration() -> None:
    names = {key.rpartition(".")[2] for schema in (RunConfig, EvaluateConfig)
             for key, _, _ in leaves(schema)}  # fmt: skip
    read: set[str] = set()
    root = Path(vistill.__file__).parent
    for path in root.rglob("*.py"):
        if path.parent.name == "config" and path.stem not in ("chain", "multi_student", "together"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg):
                read.add(str(node.arg))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    assert not names - read, "settings that nothing reads"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optim.momentum=0.8", "with optim.optimizer=adamw; it needs optim.optimizer=sgd"),
        ("optim.gamma=0.5", "with optim.schedule=cosine; it needs optim.schedule=step"),
        ("optim.milestones=[3]", "with optim.schedule=cosine; it needs optim.schedule=multistep"),
        ("optim.div_factor=3", "it needs optim.schedule=1cycle or 3cycle"),
        ("optim.warmup_epochs=3 optim.schedule=1cycle", "with optim.schedule=1cycle"),
        ("optim.warmup_lr=1e-6 optim.warmup_epochs=0", "with optim.warmup_epochs=0"),
        ("optim.base_lr=1e-3 optim.lr=1e-4", "beside optim.lr=0.0001"),
        ("data.stride=4", "without data.frames"),
        ("data.stride=2 data.frames=8 data.sampling=sparse", "needs data.sampling=dense or stre"),
        ("data.crop_scale=[0.5,1] data.frames=8", "it needs data.crop=resized"),
        ("cache.views=2", "without cache.path"),
        ("teacher.block=3", "without teacher.model"),
        ("method.relation.early_blocks=[1] teacher=x cache=c", "beside cache.path=c"),
        ("method.relation.early_blocks=[1] method.target=feature", "needs method.target=relation"),
        ("method.mask_ratio=0.5", "with method.input=raw; it needs method.input=masked"),
        ("method.feature.kind=ffn", "with method.target=relation; it needs method.target=feature"),
        ("method.aux_mim.decoder.depth=2 method.input=masked", "with method.aux_mim.weight=0"),
        ("teacher=x teacher.block=3 method.target=class_token", "behind the last block"),
        ("method=kdep method.channel_seed=3", "without align=channel_random or columns=random"),
        ("method=amd method.teacher_mask_ratio=0.75 method.generation.depth=1", "sees no more"),
        ("method=feature_distillation method.beta=1.0 method.loss=l1", "method.loss=smooth_l1"),
        ("student=timm/x student.patch_size=16", "student.model=timm/x, which is no plain ViT"),
        ("student=vit_tiny student.ape=true", "vit_tiny, which is no Swin of vistill's own"),
        ("student=swinv2_tiny student.qk_scale=0.2", "swinv2_tiny, which is no plain ViT"),
        ("students.a=vit student.init=run:x", "write students.NAME.init"),
        ("students.a=swinv2_tiny student.depth=3", "none of which is a plain ViT: swinv2_tiny"),
        ("chain=[swinv2_tiny] student.depth=3", "none of which is a plain ViT: swinv2_tiny"),
        ("train.knn_probe=true data.held_out=0", "with data.held_out=0"),
    ],
)
def test_words_without_a_use(words: str, message: str) -> None:
    with pytest.raises(UserError, match="has no use") as caught:
        build_config(RunConfig, {}, parse_overrides(words.split()))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("finetune.epochs=1 protocols=[knn,linear]", "it needs finetune among them"),
        ("finetune=mae_base protocols=[knn]", "it needs finetune among them"),
        ("knn.k=3 protocols=[linear]", "it needs knn among them"),
        ("detection.epochs=3", "it needs detection among them"),
        ("crops=3 protocols=[linear]", "with protocols=[linear]"),
        ("pool=cls protocols=[test]", "with protocols=[test]"),
        ("test=x protocols=[detection]", "with protocols=[detection]"),
        ("test_share=0.3 test=x", "beside test=x"),
        ("finetune.lr=1e-3 finetune.lrs=[0.1,0.2]", "beside finetune.lrs=[0.1,0.2]"),
        ("finetune.weight_decay=0.1 finetune.weight_decays=[0.1,0.2]", "beside finetune.weight_d"),
        ("finetune.mix_probability=0.5", "without finetune.mixup or finetune.cutmix"),
        ("finetune.validation_share=0.3", "without several lrs or weight_decays"),
        ("detection.least_score=0.5 protocols=[detection]", "without detection.detections"),
    ],
)
def test_words_of_an_evaluation_without_a_use(words: str, message: str) -> None:
    with pytest.raises(UserError, match="has no use") as caught:
        build_config(EvaluateConfig, {}, parse_overrides(words.split()))
    assert message in str(caught.value)


def test_a_recipe_of_clips_has_a_use_in_every_protocol() -> None:
    words = ["finetune=amd_base_ssv2", "protocols=[knn]"]
    assert build_config(EvaluateConfig, {}, parse_overrides(words)).finetune.recipe


def test_what_a_file_holds_in_vain_is_said() -> None:
    raw = {"optim": {"momentum": 0.8, "lr": 1e-3}, "student": {"model": "timm/x", "depth": 3}}
    assert list(idle_settings(build_config(RunConfig, raw, []))) == [
        "student.depth=3 has no use with student.model=timm/x, which is no plain ViT",
        "optim.momentum=0.8 has no use with optim.optimizer=adamw; it needs optim.optimizer=sgd",
    ]
    whole = build_config(RunConfig, {}, [("optim.lr", 1e-3)]).model_dump()
    assert not list(idle_settings(build_config(RunConfig, whole, [])))


def test_the_rate_that_is_said_takes_the_place_of_the_recipe_s() -> None:
    raw = {"optim": {"lr": 1e-3}}
    assert build_config(RunConfig, raw, [("optim.base_lr", 2e-4)]).optim.lr is None
    assert build_config(RunConfig, raw, [("optim.eps", 2e-4)]).optim.lr == 1e-3


def numeric(annotation: Any) -> bool:
    """Whether a setting is a single number."""
    return bool(_types(annotation) & {int, float}) and tuple not in _types(get_origin(annotation))


@pytest.mark.parametrize(
    ("schema", "key", "field", "above"),
    [case for case in CASES if numeric(case.values[2].annotation)],
)
def test_numbers_beyond_reason_get_a_sentence(
    schema: type[BaseModel], key: str, field: FieldInfo, above: Words
) -> None:
    for value in (10**19, -1e23, 1e23, float("inf"), float("nan"), 10**400):
        with pytest.raises(UserError) as caught:
            build_config(schema, {}, [*above, (key, value)])
        said = str(caught.value)
        assert said.startswith(f"{key} must be "), said
        assert "\n" not in said
