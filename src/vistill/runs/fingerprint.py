"""What a run's folder says of its settings: all of them, and those that make it this run."""

import os
from typing import Any

from vistill.config.schema import RunConfig
from vistill.config.yaml12 import dump_yaml
from vistill.models.sizes import is_function

# What may change when a run is continued: it decides where, how fast and how often, not what.
_VOLATILE = {
    "data": {"root", "workers", "timeout", "max_broken", "device_crop"},
    "train": {
        "micro_batch_size",
        "compile",
        "activation_checkpointing",
        "strategy",
        "device",
        "checkpoint_minutes",
        "checkpoint_steps",
        "evaluate_every",
        "stop_when",
        "knn_probe",
        "loggers",
        "report",
    },
}
# Settings that came later: left at their default they say no more than a run without them.
_LATER = {
    "data": {"value_range", "allow_truncated", "sources"},
    "optim": {
        *("milestones", "div_factor", "pieces", "lr_interpolation", "weight_decay_end"),
        "floor_lr",
    },
    "teacher": {"precision"},
    "student": {"qk_scale", "ape", "extra_norm_period", "maps"},
    "method": {"labels_weight", "logits_activation"},
}


def fingerprint(config: RunConfig) -> dict[str, Any]:
    """The configuration without what may change, and with paths that mean the same everywhere."""
    settings = config.model_dump(mode="json", exclude=_VOLATILE)
    if settings["cache"].pop("path") is None:
        del settings["cache"]  # every epoch has views of its own
    if settings["students"] is None:
        del settings["students"]
    for name, later in _LATER.items():
        model = type(getattr(config, name))
        written = [settings[name]]
        if name == "student":
            written += settings.get("students", {}).values()
        for key in later & set(model.model_fields):
            usual = model.model_fields[key].default
            for section in written:
                if section.get(key) == ([] if usual == () else usual):
                    section.pop(key, None)  # then the run may be from before there was the setting
    for read in settings["data"].get("sources", {"": settings["data"]}).values():
        read["train"] = os.path.abspath(read["train"])
        read.pop("root", None)
    for section in (
        settings["teacher"],
        settings["student"],
        *settings.get("students", {}).values(),
    ):
        if is_function(section["model"] or ""):
            section["model"] = os.path.abspath(section["model"])
    kind, _, path = (settings["teacher"]["model"] or "").partition(":")
    if kind in ("run", "file"):
        settings["teacher"]["model"] = f"{kind}:{os.path.abspath(path)}"
    elif kind.startswith("hf/") and os.path.isdir(folder := kind.removeprefix("hf/")):
        settings["teacher"]["model"] = f"hf/{os.path.abspath(folder)}"
    return settings


def config_text(config: RunConfig) -> str:
    """The whole configuration as YAML, which `pretrain` takes as a recipe."""
    settings = config.model_dump(mode="json")
    if config.students is not None:  # what they leave open is said under `student`
        settings["students"] = {
            name: student.model_dump(mode="json", exclude_unset=True)
            for name, student in config.students.items()
        }
    return dump_yaml(settings)
