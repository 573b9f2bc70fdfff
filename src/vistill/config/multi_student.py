"""Several students of one teacher pass: what each of them is, given the configuration of all."""

import re
from typing import Any

from vistill.config.schema import RunConfig, StudentConfig
from vistill.config.section import Section


def student_models(text: str) -> list[str]:
    """Models separated by commas; behind one of them `,WORD=VALUE` is part of a name."""
    return [model.strip() for model in re.split(r",(?!\s*\w+=)", text)]


def student_name(model: str) -> str:
    """What a student given by its model alone is called: in metrics, folders and `run:OUT/NAME`."""
    if ".py:" in model:
        return model.rpartition(":")[2]
    return re.sub(r"[/.:]", "_", model.partition(",")[0])


def student_configs(config: RunConfig) -> dict[str, RunConfig]:
    """The run that every one of `config.students` would be on its own.

    What the `student` section sets counts for all of them, as far as they have such a part: models
    of a library and Swins have sizes of their own.
    """
    runs = {}
    for name, pupil in (config.students or {}).items():
        common = _said(config.student) if pupil.model.startswith("vit") else {}
        kept = {key: value for key, value in common.items() if key != "init"}
        if "/" not in pupil.model:  # models of a library have none that a run could set
            kept["drop_path"] = config.student.drop_path
        own = {key: value for key, value in _said(pupil).items() if key != "lr"}
        update: dict[str, object] = {"students": None, "student": StudentConfig(**kept | own)}
        if pupil.lr is not None:
            update["optim"] = config.optim.model_copy(update={"lr": pupil.lr})
        runs[name] = config.model_copy(update=update)
    return runs


def _said(section: Section) -> dict[str, Any]:
    """The settings that somebody wrote down."""
    return {name: getattr(section, name) for name in section.model_fields_set}
