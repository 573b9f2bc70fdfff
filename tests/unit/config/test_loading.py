"""Recipes and overrides become a validated configuration, or one sentence on what is wrong."""

from pathlib import Path

import pytest

from vistill.config.chain import stage_config, stage_names
from vistill.config.loading import load_config, method_names, recipe_names
from vistill.config.overrides import parse_overrides
from vistill.config.schema import RunConfig
from vistill.errors import UserError


def config(recipe: str | None, *words: str) -> RunConfig:
    return load_config(recipe, parse_overrides(words))


def problem(recipe: str | None, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        config(recipe, *words)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_says_where_it_comes_from(name: str) -> None:
    settings = config(name)
    if settings.method.name in ("mae", "tinymim"):
        peak = settings.optim.base_lr * settings.train.global_batch_size / 256
        assert peak == pytest.approx(2.4e-3)
    text = (Path(__file__).parents[3] / "src/vistill/recipes" / f"{name}.yaml").read_text()
    for word in ("Source:", "Meant to reach", "Measured by us:", "Ours, not the paper's:"):
        assert word in text


def test_the_published_settings() -> None:
    mae, tinymim = config("mae_base"), config("tinymim_base")
    assert (mae.train.epochs, mae.optim.warmup_epochs) == (1600, 40)
    assert (tinymim.train.epochs, tinymim.optim.warmup_epochs) == (300, 15)
    assert tinymim.method.name == "tinymim"
    assert (tinymim.method.relation.heads, tinymim.teacher.block) == (16, 18)


def test_a_method_name_alone_gives_its_defaults() -> None:
    assert {"feature_distillation", "mae", "tinymim"} <= set(method_names())
    assert config("mae").method.name == "mae"
    assert config(None, "method.input=masked").method.name == "tinymim"


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("method: mae\noptim:\n  lr: 3e-4\n")
    assert config(str(file), "seed=3").optim.lr == 3e-4
    file.write_text("optim:\n  learning_rate: 3e-4\n")
    assert problem(str(file), "seed=3").endswith(f"did you mean optim.lr? (in {file})")


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [
        ("optim.learning_rate=1", "optim.lr"),
        ("train.lr=1", "optim.lr"),
        ("optm.lr=1", "optim.lr"),
        ("batch_size=1", "train.global_batch_size"),
        ("data.batch_size=1", "train.global_batch_size"),
        ("train.image_size=1", "data.image_size"),
        ("method.relation.paris=[qk]", "method.relation.pairs"),
        ("method.relatoin.pairs=[qk]", "method.relation.pairs"),
        ("optim.wd=0", "optim.weight_decay"),
        ("student.drop_path_rate=0", "student.drop_path"),
        ("train.epoch=3", "train.epochs"),
    ],
)
def test_misspelt_settings_get_the_right_one(word: str, suggestion: str) -> None:
    key = word.partition("=")[0]
    assert problem("tinymim", word) == f"unknown setting {key}; did you mean {suggestion}?"


def test_nothing_close_suggests_nothing() -> None:
    assert problem(None, "zzzz=1") == "unknown setting zzzz"


def test_all_problems_at_once() -> None:
    text = problem(
        None,
        "optim.lr=fast",
        "train.epochs=-1",
        "teacher.weights=radnom",
        "student.position=x",
        "data.crop_scale=[1,0.2]",
        "optim.betas=[0.9]",
        "train.compile=3",
    )
    assert text.startswith("7 problems: ")
    for part in (
        "optim.lr must be a number, not 'fast'",
        "train.epochs must be greater than 0, not -1",
        "teacher.weights cannot be 'radnom'; did you mean 'random'?",
        "student.position cannot be 'x'; choose one of: learned, none, sincos",
        "data.crop_scale must go from small to large, not 1 to 0.2",
        "optim.betas.1 is missing",
        "train.compile must be true or false, not 3",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("tinymmi", [], "unknown method or recipe 'tinymmi'; did you mean 'tinymim'?"),
        ("no/such.yaml", [], "recipe no/such.yaml does not exist"),
        (None, ["method.name=mea"], "unknown method.name 'mea'; did you mean 'mae'?"),
        (None, ["method=mea"], "unknown method.name 'mea'; did you mean 'mae'?"),
        (None, ["optim=3"], "optim must be a section of settings, not 3"),
        ("mae", ["method.target=feature"], "method.target is a setting of tinymim"),
        (None, ["train.epochs=3"], "optim.warmup_epochs=15 is longer than the train.epochs=3"),
        (None, ["method.aux_mim.weight=1"], "needs method.input=masked"),
        (None, ["method.relation.pairs=[]"], "values of method.relation.pairs must be 1, not 0"),
        (None, ["method.relation.pairs=[kq]"], "method.relation.pairs.0 cannot be 'kq'"),
        (None, ["method.relation.pairs=[qk,qk]"], "method.relation.pairs holds 'qk' twice"),
        (None, ["method.feature.residual=true"], "no use for residual=true with kind=block"),
        ("mae", ["method.decoder.num_heads=3"], "method.decoder cannot split embed_dim=512 into 3"),
        ("mae", ["method.decoder.embed_dim=30", "method.decoder.num_heads=2"], "divisible by 4"),
        (None, ["data.crop_scale=[0.5,2]"], "data.crop_scale.1 must be at most 1, not 2"),
        (None, ["optim.lr=.inf"], "optim.lr must be a finite number, not inf"),
    ],
)
def test_one_problem(recipe: str | None, words: list[str], message: str) -> None:
    assert message in problem(recipe, *words)


def test_a_problem_is_placed_in_the_recipe_that_was_written_down() -> None:
    words = ["method.aux_mim.weight=1"]
    assert problem("tinymim_base", *words).endswith("(in tinymim_base)")
    assert problem("tinymim", *words).endswith("method.input=masked")


def test_another_method_keeps_explicit_settings_or_says_how_to_drop_them() -> None:
    text = problem("tinymim_small", "method.name=mae")
    assert "method.relation.heads is a setting of tinymim, not of mae (in tinymim_small)" in text
    assert text.endswith("write method=mae to drop the recipe's method section")
    assert config("tinymim_small", "method=mae").method.name == "mae"


def test_stages_of_a_chain_have_the_released_heads() -> None:
    whole = config("tinymim_chain", "teacher.model=file:large.pth")
    assert stage_names(whole) == ["1-vit_base", "2-vit_small", "3-vit_tiny"]
    stages = [stage_config(whole, i, f"run:{i}" if i else None) for i in range(3)]
    assert [s.teacher.model for s in stages] == ["file:large.pth", "run:1", "run:2"]
    assert [s.teacher.block for s in stages] == [18, "last", "last"]
    assert [s.student.num_heads for s in stages] == [12, 6, 6]
    heads = [s.method.relation.heads for s in stages if s.method.name == "tinymim"]
    assert heads == [16, 12, 12]


def test_explicit_heads_win_in_a_chain() -> None:
    whole = config(
        "tinymim_chain", "method.relation.heads=4", "student.num_heads=3", "chain=[vit_tiny]"
    )
    stage = stage_config(whole, 0, None)
    assert stage.student.num_heads == 3
    assert stage.method.name == "tinymim"
    assert stage.method.relation.heads == 4


def test_a_mistake_deep_in_a_list_is_told_once() -> None:
    assert problem("amd", "method.direct.pairs=[[6]]") == "method.direct.pairs.0.1 is missing"


def test_recipes_of_clips() -> None:
    amd, videomae = config("amd_small_k400"), config("videomae_base_k400")
    for settings, peak in ((amd, 2.4e-3), (videomae, 1.2e-3)):
        # The copies of a clip do not count.
        scaled = settings.optim.base_lr * settings.train.global_batch_size / 256
        assert scaled == pytest.approx(peak)
        assert (settings.data.frames, settings.data.stride, settings.data.flip) == (16, 4, 0.0)
        assert settings.optim.peak_in_warmup
    assert (amd.data.repeats, amd.optim.clip_norm, amd.optim.min_lr) == (4, 0.02, 2e-5)
    assert (videomae.optim.clip_norm, videomae.optim.min_lr) == (None, 8e-5)
    assert config("amd_base_imagenet").data.frames is None


def test_recipes_of_umt() -> None:
    for size, image_size, drop_path in (("base", 224, 0.1), ("large", 196, 0.2)):
        made = config(f"umt_{size}_k710")
        assert made.method.name == "umt"
        assert (made.method.mask, made.method.mask_ratio) == ("semantic", 0.8)
        assert (made.method.aligned_layers, made.method.norm, made.method.loss) == (6, "l2", "l2")
        assert (made.method.teacher_interval, made.method.student_interval) == (1, 1)
        assert made.teacher.image_size == image_size
        assert (made.student.drop_path, made.student.tubelet_size) == (drop_path, 1)
        assert (made.data.frames, made.data.image_size, made.data.flip) == (8, 224, 0.5)
        assert (made.data.sampling, made.data.crop) == ("segments", "multi_scale")
        assert (made.data.repeats, made.data.interpolation) == (1, "bilinear")
        assert made.train.global_batch_size == 64 * 32
        peak = made.optim.base_lr * made.train.global_batch_size / 256
        assert peak == pytest.approx(1.2e-3)
        assert made.optim.min_lr == pytest.approx(8e-5)
        assert (made.optim.betas, made.optim.weight_decay) == ((0.9, 0.95), 0.05)
        assert (made.optim.clip_norm, made.optim.warmup_lr) == (None, 0)
        assert (made.train.epochs, made.optim.warmup_epochs) == (200, 40)
        assert made.optim.peak_in_warmup
