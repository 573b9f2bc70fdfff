"""The README.md of an exported folder: what the model is, how it is loaded, and where it comes
from, as far as its run knows."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vistill.config.yaml12 import load_yaml

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone

_UNKNOWN = "not known here"
_SETTINGS = (
    *("train.epochs", "train.global_batch_size", "train.precision", "train.seed"),
    *("optim.lr", "optim.base_lr", "optim.weight_decay", "data.image_size"),
)
_METRICS = {
    "knn_top1": "top-1 of a kNN probe on held-out pictures",
    "held_out_loss": "loss on held-out pictures",
}


def model_card(
    backbone: "Backbone", library: str, usage: str, run: Path | None, classes: list[str] | None
) -> str:
    """The text of a card in Markdown, with the front matter that model hubs read.

    Args:
        backbone: that is exported.
        library: that loads it.
        usage: Python code that does.
        run: folder of the run or of the fine-tuning that it comes from.
        classes: of a classifier.
    """
    told = run_facts(run)
    config: Any = told.get("config") or {}
    task = "image-classification" if classes is not None else "image-feature-extraction"
    front = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": ["vistill", "distillation", library],
        "license": "unknown",
    }
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", ""]
    lines += [f"# {_title(backbone, config)}", "", _sentence(backbone, classes), ""]
    lines += ["```python", usage.strip(), "```", "", "## Where it comes from", ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in _origins(backbone, told))]
    if figures := _figures(told):
        lines += ["", "## Measured", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in figures]
    if settings := _settings(config):
        lines += ["", "## Settings", "", "| | |", "|---|---|"]
        lines += [f"| `{name}` | `{_cell(value)}` |" for name, value in settings]
    lines += [
        "",
        "## Licence",
        "",
        "Distilled weights may be bound by the licences of the teacher and of the pictures. "
        f"Teacher: {told.get('teacher_licence') or _UNKNOWN}. Pictures: {_UNKNOWN}. Put the "
        "licence under which you pass these weights on into the first lines of this file.",
        "",
    ]
    return "\n".join(lines)


def run_facts(run: Path | None) -> Mapping[str, Any]:
    """What the run folder tells: its settings, its environment, its result."""
    found: dict[str, Any] = {}
    if run is None:
        return found
    if (run / "config.yaml").is_file():
        found["config"] = load_yaml((run / "config.yaml").read_text("utf-8"), str(run))
    for name in ("environment", "result"):
        if (run / f"{name}.json").is_file():
            told = json.loads((run / f"{name}.json").read_text("utf-8"))
            found[name] = told[-1] if isinstance(told, list) else told  # of the last session
    teacher = ((found.get("config") or {}).get("teacher") or {}).get("model")
    found["teacher_licence"] = _licence(teacher)
    return found


def _licence(teacher: Any) -> str | None:
    """The licence that timm states of published weights."""
    library, _, name = str(teacher).partition("/")
    if library != "timm" or ":pretrained" not in name:
        return None
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name.partition(":")[0])
    return getattr(known, "license", None)


def _title(backbone: "Backbone", config: Any) -> str:
    student = (config.get("student") or {}).get("model") if config else None
    return f"{student or (backbone.build or {}).get('name') or 'model'}, by vistill"


def _sentence(backbone: "Backbone", classes: list[str] | None) -> str:
    height, width = backbone.image_size
    size = f"pictures of {height} × {width} pixels"
    count = sum(parameter.numel() for parameter in backbone.parameters())
    what = f"features of {backbone.feature_width} numbers of {size}"
    if classes is not None:
        shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
        what = f"scores of {len(classes)} classes ({shown}) of {size}"
    statistics = (backbone.normalization.mean, backbone.normalization.std)
    mean, std = (", ".join(f"{one:g}" for one in values) for values in statistics)
    return (
        f"It gives {what}, normalised with mean {mean} and standard deviation {std}; its backbone "
        f"has {count:,} parameters."
    )


def _origins(backbone: "Backbone", told: Mapping[str, Any]) -> list[tuple[str, Any]]:
    config, around = told.get("config") or {}, told.get("environment") or {}
    teacher, data = config.get("teacher") or {}, config.get("data") or {}
    pictures = around.get("pictures")
    rows = [
        ("weights", backbone.origin),
        ("method", (config.get("method") or {}).get("name", _UNKNOWN)),
        ("teacher", teacher.get("model") or _UNKNOWN),
        ("teacher's weights", around.get("teacher_weights") or _UNKNOWN),
        ("pictures", data.get("train") or data.get("sources") or _UNKNOWN),
        ("number of pictures", _UNKNOWN if pictures is None else f"{pictures:,}"),
    ]
    versions = around.get("packages") or {}
    if versions:
        rows.append(("made with", ", ".join(f"{k} {v}" for k, v in versions.items() if v)))
    return rows


def _figures(told: Mapping[str, Any]) -> list[tuple[str, float]]:
    result = told.get("result") or {}
    best = result.get("best")
    found = []
    if best:
        what = _METRICS.get(best["metric"], best["metric"])
        found = [(f"best {what}, after epoch {best['epoch']}", float(best["value"]))]
    terms = result.get("terms") or {}
    return found + [(f"{name} at the end", float(value)) for name, value in terms.items()]


def _settings(config: Any) -> list[tuple[str, Any]]:
    found = []
    for name in _SETTINGS:
        section, _, key = name.partition(".")
        value = ((config or {}).get(section) or {}).get(key)
        if value is not None:
            found.append((name, value))
    return found


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
