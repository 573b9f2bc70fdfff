"""What `vistill inspect` tells: tables, numbers, a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.runs.inference import left_out
from vistill.runs.inspecting import Inspected

if TYPE_CHECKING:
    from vistill.runs.loss_landscape import Landscape

COLUMNS = {
    "distance": ("distance px", "{:.1f}"),
    "spread": ("spread px", "{:.1f}"),
    "duration": ("slots", "{:.2f}"),
    "similarity": ("heads alike", "{:.3f}"),
    "entropy": ("entropy", "{:.2f}"),
    "diagonal": ("diagonal", "{:.3f}"),
    "column": ("column", "{:.3f}"),
    "identity": ("identity", "{:.3f}"),
    "rank": ("rank", "{:.1f}"),
    "std": ("channel std", "{:.3g}"),
}
"""Figures of a layer: heading and format."""


@dataclass(frozen=True)
class InspectResult:
    """What was seen.

    Attributes:
        models: each by itself, in the order given.
        cka: alikeness of each layer of the first model and each of every other, by its name.
        agreement: how alike the first and every other model place each of some pictures among the
            others, `[n]`, and the names of these pictures.
        regions: how alike they place each patch among its picture's others, `[n, h, w]`, and the
            positions of these pictures, of every other model that has patches.
        classes: name, mean agreement and number of every class, of every other model.
        landscapes: of each model, where they were asked for.
        noun: what a sample is.
        out: folder with `inspect.json`, `inspect.npz` and `report.html`; None.
    """

    models: list[Inspected]
    cka: Mapping[str, Any]
    agreement: Mapping[str, tuple[Any, list[str]]]
    regions: Mapping[str, tuple[list[int], Any]]
    classes: Mapping[str, list[tuple[str, float, int]]]
    landscapes: "Sequence[Landscape]"
    noun: str
    out: Path | None = None

    def __str__(self) -> str:
        lines: list[str] = []
        for model in self.models:
            rows = layer_rows(model)
            shown = [key for key in COLUMNS if any(key in row for row in rows)]
            lines.append(f"{model.name}: {model.seen} {self.noun}s, {len(rows)} layers")
            lines.append("layer " + " ".join(f"{COLUMNS[key][0]:>11}" for key in shown))
            for number, row in zip(model.blocks, rows, strict=True):
                cells = (COLUMNS[k][1].format(row[k]) if k in row else "" for k in shown)
                lines.append(f"{number:>5} " + " ".join(f"{cell:>11}" for cell in cells))
            lines += left_out(model.broken, self.noun)
        for name, found in self.cka.items():
            last = float(found[-1, -1])
            lines.append(f"last layers of {self.models[0].name} and {name}: CKA {last:.3f}")
        for name, (values, names) in self.agreement.items():
            lines.append(
                f"{self.models[0].name} and {name} place {self.noun}s alike by {values.mean():.3f}"
            )
            worst = values.argsort()[:3].tolist()
            few = ", ".join(f"{names[i]} ({values[i]:.2f})" for i in worst)
            lines.append(f"  least alike: {few}")
            if self.classes.get(name):
                low = self.classes[name][0]
                lines.append(f"  least alike of the classes: {low[0]} ({low[1]:.2f})")
            if name in self.regions:
                lines.append(f"  {_least_alike(self.regions[name][1].mean(dim=0))}")
        lines += [str(one) for one in self.landscapes]
        if self.out is not None:
            lines.append(f"written: {self.out / 'report.html'}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """All numbers but maps as JSON text."""
        models = [
            {
                "name": model.name,
                "seen": model.seen,
                "layers": [
                    {"block": number, **row}
                    for number, row in zip(model.blocks, layer_rows(model), strict=True)
                ],
                "broken": model.broken,
            }
            for model in self.models
        ]
        told = {
            "models": models,
            "cka": {name: found.tolist() for name, found in self.cka.items()},
            "agreement": {
                name: dict(zip(names, values.tolist(), strict=True))
                for name, (values, names) in self.agreement.items()
            },
            "regions": {
                name: maps.mean(dim=0).tolist() for name, (_, maps) in self.regions.items()
            },
            "classes": self.classes,
            "landscapes": [one.told() for one in self.landscapes],
        }
        return json.dumps(told, indent=1) + "\n"


def _least_alike(mean: Any) -> str:
    """Of the patches of a picture, from its mean map."""
    place = int(mean.argmin())
    row, column = divmod(place, mean.shape[1])
    return (
        f"patches alike by {float(mean.mean()):.3f}, least in row {row + 1} of {mean.shape[0]}, "
        f"column {column + 1} of {mean.shape[1]} ({float(mean.min()):.2f})"
    )


def layer_rows(model: Inspected) -> list[dict[str, float]]:
    """The figures of every layer; without those that it has not."""
    from vistill.analysis.attention import layer_table

    rows = []
    for attention, spectrum in zip(model.attention, model.spectra, strict=True):
        row = {} if attention is None else layer_table([attention])[0]
        if row and not row["duration"]:
            del row["duration"]
        rows.append(row | {"rank": spectrum.effective_rank, "std": spectrum.std})
    return rows
