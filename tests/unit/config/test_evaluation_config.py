import subprocess
import sys

import pytest

from vistill.config.clip_recipes import clip_settings
from vistill.config.detection import DETECTION_RECIPES, DetectionConfig
from vistill.config.evaluation import EvaluateConfig
from vistill.config.finetune import FINETUNE_RECIPES, FineTuneConfig
from vistill.config.loading import build_config
from vistill.config.overrides import parse_overrides
from vistill.errors import UserError
from vistill.evaluation.finetune import length_of
from vistill.evaluation.lengths import Length


def config(*words: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, {}, parse_overrides(words))


def test_recipes_are_the_published_settings():
    base = FineTuneConfig(recipe="mae_base")
    assert (base.epochs, base.global_batch_size, base.base_lr, base.lr) == (100, 1024, 5e-4, None)
    assert (base.layer_decay, base.drop_path, base.mixup, base.cutmix) == (0.65, 0.1, 0.8, 1.0)
    assert (base.label_smoothing, base.random_erasing, base.min_lr) == (0.1, 0.25, 1e-6)
    assert FineTuneConfig(recipe="tinymim_tiny").num_heads == 3


@pytest.mark.parametrize("name", FINETUNE_RECIPES)
def test_every_recipe_is_valid_and_survives_a_round_trip(name):
    made = FineTuneConfig(recipe=name)
    assert FineTuneConfig.model_validate(made.model_dump()) == made


def test_recipes_of_clips_bring_their_way_of_sampling():
    ucf = FineTuneConfig(recipe="videomae_base_ucf101")
    assert (ucf.global_batch_size, ucf.repeats, ucf.base_lr, ucf.min_lr) == (128, 2, 5e-4, 5e-6)
    assert (ucf.layer_decay, ucf.drop_path, ucf.head_dropout) == (0.7, 0.2, 0.5)
    assert clip_settings("amd_base_ssv2", frames=16) == (16, 2, "segments", 2, 3)
    assert clip_settings("amd_small_k400", frames=16) == (16, 4, "stretched", 5, 3)
    trained = {"stride": 2, "sampling": "dense"}
    assert clip_settings("small", frames=8, trained=trained) == (8, 2, "dense", 5, 3)
    own = clip_settings("amd_base_ssv2", frames=8, stride=3, sampling="dense", clips=1, crops=1)
    assert own == (8, 3, "dense", 1, 1) == own.middle


@pytest.mark.parametrize(
    ("recipe", "epochs", "warmup", "rate", "views", "repeats"),
    [  # rates for a batch of 256 views, and views of a step over 16 GPUs (spec umt 7)
        ("base_k710", 35, 2, 2e-4, 512, 2),
        ("large_k710", 20, 2, 1e-4, 512, 2),
        ("base_k400", 5, 1, 2e-5, 512, 2),
        ("base_k600", 5, 1, 2e-5, 512, 2),
        ("base_k700", 5, 1, 2e-5, 512, 2),
        ("large_k400", 5, 1, 1e-5, 512, 2),
        ("large_k600", 5, 1, 1e-5, 512, 2),
        ("large_k700", 5, 1, 1e-5, 512, 2),
        ("large_k400_16f", 5, 1, 1e-5, 256, 2),
        ("large_k600_16f", 5, 1, 1e-5, 256, 2),
        ("large_k700_16f", 5, 1, 1e-5, 256, 2),
        ("base_mit", 40, 5, 1e-4, 512, 1),
        ("large_mit", 20, 5, 1e-4, 512, 1),
        ("base_mit_384px", 4, 1, 1e-5, 256, 1),
        ("large_mit_384px", 4, 1, 1e-5, 128, 1),
        ("base_ssv2", 30, 5, 2e-4, 512, 2),
        ("large_ssv2", 14, 4, 4e-4, 512, 2),
    ],
)
def test_recipes_of_umt(recipe, epochs, warmup, rate, views, repeats):
    made, large = FineTuneConfig(recipe=f"umt_{recipe}"), recipe.startswith("large")
    assert (made.epochs, made.warmup_epochs, made.min_steps) == (epochs, warmup, 0)
    assert (made.global_batch_size * made.repeats, made.repeats) == (views, repeats)
    assert made.base_lr * made.global_batch_size == pytest.approx(rate * views)
    assert made.min_lr == made.warmup_lr == pytest.approx(1e-6 * views / 256)
    assert made.layer_decay == (0.85 if large else 0.75)
    assert made.drop_path == (0.2 if large else 0.1)
    assert made.weight_decay == (0.1 if "384px" in recipe else 0.05)
    assert made.flip == (0.0 if "ssv2" in recipe else 0.5)
    assert (made.mixup, made.cutmix, made.label_smoothing, made.random_erasing) == (
        0.8, 1.0, 0.1, 0.25,
    )  # fmt: skip
    assert (made.rand_augment, made.interpolation) == ("rand-m7-n4-mstd0.5-inc1", "bilinear")
    assert made.positions == "interpolated"
    assert length_of(made, 10**6, "clip") == Length(made.global_batch_size, epochs, warmup, None)
    views = clip_settings(f"umt_{recipe}", frames=8)
    if "ssv2" in recipe:
        assert (views.sampling, views.clips, views.crops) == ("segments", 2, 3)
    else:
        clips = 6 if recipe == "large_mit_384px" else 4
        assert (views.sampling, views.clips, views.crops) == ("slices", clips, 3)


def test_detection_recipes():
    base = config("detection.recipe=ava_base", "protocols=[detection]").detection
    assert (base.base_lr, base.lr, base.global_batch_size, base.layer_decay) == (
        2.5e-4, None, 128, 0.75,
    )  # fmt: skip
    assert config("detection.base_lr=1e-3", "protocols=[detection]").detection.lr is None
    assert base.sampling == "dense"
    for size, epochs, decay, drop_path in (("base", 30, 0.75, 0.2), ("large", 25, 0.85, 0.4)):
        made = DetectionConfig(recipe=f"ava_umt_{size}")
        assert (made.epochs, made.layer_decay, made.drop_path) == (epochs, decay, drop_path)
        assert (made.base_lr, made.lr, made.global_batch_size) == (2.5e-4, None, 128)
        assert (made.warmup_epochs, made.weight_decay) == (5, 0.05)
        assert (made.sampling, made.span, made.precision) == ("uniform", 300, "fp32")
    for name in DETECTION_RECIPES:
        made = DetectionConfig(recipe=name)
        assert DetectionConfig.model_validate(made.model_dump()) == made


def test_a_stride_has_no_use_beside_frames_that_are_spread():
    words = ["stride=8", "protocols=[detection]"]
    for sampling in ("dense", "legacy_sparse"):
        assert config(f"detection.sampling={sampling}", *words).stride == 8
    with pytest.raises(UserError, match=r"stride=8 has no use with detection.sampling=uniform"):
        config("detection.recipe=ava_umt_base", *words)


def test_overrides_win_over_the_recipe():
    made = config("finetune.recipe=mae_large", "finetune.epochs=7").finetune
    assert (made.epochs, made.drop_path) == (7, 0.2)


def test_base_lr_switches_the_absolute_rate_off():
    assert config("finetune.base_lr=1e-3").finetune.lr is None
    with pytest.raises(UserError, match=r"base_lr=0.001 has no use beside finetune.lr=0\.0001"):
        config("finetune.base_lr=1e-3", "finetune.lr=1e-4")


def test_epochs_switch_the_least_number_of_steps_off():
    for section, words in (
        ("finetune", ["finetune.recipe=small"]),
        ("linear", []),
        ("detection", ["protocols=[detection]"]),
    ):
        assert getattr(config(*words), section).min_steps >= 400
        assert getattr(config(f"{section}.epochs=1", *words), section).min_steps == 0
        both = config(f"{section}.min_steps=7", f"{section}.epochs=1", *words)
        assert getattr(both, section).min_steps == 7


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("finetune.recipe=mae_bas", "mae_base"),
        ("finetune.mixupp=1", "finetune.mixup"),
        ("detection.recipe=ava_bas", "ava_base"),
        ("sampling=segment", "segments"),
        ("budgets=[2.0]", "^budgets.0 a label budget .* not 2.0$"),
        ("protocols=[kn]", "knn"),
        ("test_share=0", "test_share"),
        ("seeds=[1,1]", "seeds holds 1 twice"),
        ("budgets=[1,1.0]", "budgets holds 1.0 twice"),
        ("finetune.crop_scale=[1,0.5]", "from small to large"),
    ],
)
def test_mistakes_are_told(word, message):
    with pytest.raises(UserError, match=message):
        config(word)


def test_budgets():
    assert config("budgets=[0.01, 1, 5/class]").budgets == (0.01, 1.0, "5/class")


def test_importing_it_does_not_import_torch():
    code = "import sys, vistill.config.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
