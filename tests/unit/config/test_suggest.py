"""Suggestions name the setting that was meant."""

from vistill.config.problems import setting_names
from vistill.config.schema import RunConfig
from vistill.config.suggest import SYNONYMS, did_you_mean, nearest


def test_synonyms_lead_to_settings_that_exist() -> None:
    last = {name.rpartition(".")[2] for name in setting_names(RunConfig)}
    assert set(SYNONYMS.values()) <= last
    assert not set(SYNONYMS) & last


def test_near_and_far_names() -> None:
    assert nearest("VIT_smal", ["vit_small", "vit_base"]) == "vit_small"
    assert nearest("resnet", ["vit_small", "vit_base"]) is None
    assert did_you_mean("resnet", ["b", "a"]) == "; choose one of: a, b"
