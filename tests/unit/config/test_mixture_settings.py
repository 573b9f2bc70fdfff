"""`data.sources`: what is said of a mixture shows up, comes back from a file, or is refused."""

import pytest

from vistill.config.loading import build_config
from vistill.config.overrides import parse_overrides
from vistill.config.schema import RunConfig
from vistill.config.yaml12 import load_yaml
from vistill.errors import UserError
from vistill.runs.conflicts import check_conflicts
from vistill.runs.fingerprint import config_text, fingerprint

TWO = ["data.sources.a=x", "data.sources.b.train=y", "data.sources.b.frames=8", "method=custom"]


def config(*words: str) -> RunConfig:
    return build_config(RunConfig, {}, parse_overrides(words))


def test_a_mixture_comes_back_from_its_file_and_has_one_fingerprint():
    said = config(*TWO, "data.flip=0.2", "data.sources.b.weight=0.5", "data.sources.b.root=r")
    again = build_config(RunConfig, load_yaml(config_text(said), "x"), [])
    assert again == said
    assert fingerprint(again) == fingerprint(said)
    moved = config(*TWO, "data.flip=0.2", "data.sources.b.weight=0.5", "data.sources.b.root=z")
    assert fingerprint(moved) == fingerprint(said)
    assert fingerprint(said)["data"]["sources"]["a"]["train"].startswith("/")
    other = config(*TWO, "data.flip=0.2", "data.sources.b.weight=0.75")
    assert fingerprint(other) != fingerprint(said)


def test_the_fingerprint_of_a_run_with_one_source_is_as_before():
    settings = fingerprint(config("data.train=x"))["data"]
    assert settings.keys() == {
        "train", "image_size", "crop_scale", "crop_ratio", "interpolation", "flip", "frames",
        "stride", "sampling", "repeats", "crop", "held_out",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.train=z"], "data has train=z beside sources"),
        (["data.root=z"], "data has root=z beside sources"),
        (["data.sources.c.frames=8"], "nowhere where sources.c is: give its train=PATH"),
        (["data.sources.b.frames=9", "data.frames=8"], "set twice"),
        (["data.sources.c={train: z, frames: 16}"], "all clips of a mixture have the same number"),
        (["data.frames=16"], "clips of 8 frames in sources.b and of 16 elsewhere"),
        (["data.device_crop=true"], "no device_crop for a mixture"),
        (["data.sources.a.stride=2"], "data.sources.a.stride=2 is for clips"),
        (["data.sources.a.crop=multi_scale"], "data.sources.a.crop=multi_scale is for clips"),
        (["data.sources.b.value_range=[0,9]"], "value_range is about pictures"),
        (["data.sources.b.weigth=2"], "did you mean data.sources.b.weight?"),
        (["data.sources.b.weight=0"], "data.sources.b.weight must be greater than 0"),
        (["data.sources.b.weight=many"], "data.sources.b.weight must be a number"),
        (["data.sources.b.stride=4", "data.sources.b.sampling=sparse"], "stride=4 has no use with"),
        (["data.sources={}"], "sources names nothing"),
        (["method=tinymim"], "pictures (a) and clips (b); leave out the sources of one kind"),
    ],
)
def test_mistakes(words, message):
    given = [word for word in TWO if not any(w.startswith(word.split("=")[0] + "=") for w in words)]
    if any(word.startswith("data.sources={") for word in words):
        given = ["method=custom"] if not any(w.startswith("method=") for w in words) else []
    if "set twice" in message:
        given = TWO
    with pytest.raises(UserError) as caught:
        check_conflicts(config(*given, *words, "teacher=timm/vit:x"), student_given=False)
    assert message in str(caught.value)


def test_sources_of_one_kind_suit_every_method():
    for words in (
        ["data.sources={a: {train: x}, b: {train: y}}", "method=mae"],
        ["data.sources={a: {train: x, frames: 8}, b: {train: y, frames: 8}}", "method=videomae"],
    ):
        check_conflicts(config(*words), student_given=False)
    with pytest.raises(UserError, match="hides patches of pictures"):
        check_conflicts(
            config("data.sources={a: {train: x, frames: 8}}", "method=mae"), student_given=False
        )
