"""The page of `vistill inspect`: curves over layers, maps of attention, the worst pictures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.analysis.plot import Curve
from vistill.analysis.report import Section, Table, csv_text, write_beside, write_report
from vistill.config.yaml12 import dump_yaml
from vistill.files import write_atomic
from vistill.runs.inspecting import Opened
from vistill.runs.inspection import COLUMNS, InspectResult, layer_rows
from vistill.runs.reports.origins import origin_of_data, origin_of_model
from vistill.runs.reports.run_page import BESIDE, PAGE
from vistill.runs.reports.setting import command_section, environment_section
from vistill.training.run_folder import environment_now

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("inspect.json", "inspect.npz", PAGE, BESIDE)
WORST = 20
_SIDE = 160
_CURVES = {
    "distance": "Mean attention distance, pixels",
    "spread": "Largest less smallest distance of heads, pixels",
    "duration": "Mean attention distance, time slots",
    "similarity": "Cosine between heads",
    "diagonal": "Share of the map that offsets explain",
    "column": "Share of the map that keys explain",
    "rank": "Effective rank of tokens",
    "std": "Standard deviation of channels",
}


def write_inspection(result: InspectResult, opened: Sequence[Opened], folder: Path) -> None:
    """Write `inspect.json`, `inspect.npz` and `report.html` with what lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "inspect.json", result.to_json())
    write_atomic(folder / "inspect.npz", _arrays(result))
    sections = [_curves(result), *_maps(result), *_alike(result, opened), *_landscapes(result)]
    names = ", ".join(model.name for model in result.models)
    sessions, first = [environment_now()], opened[0]
    origins = {f"terms of {one.name}": origin_of_model(str(one.reference)) for one in opened}
    origins["terms of the data"] = origin_of_data(first.source.name)
    shown = [
        *sections,
        *_tables(result),
        Section("Origins and licences", facts=origins),
        command_section(sessions, {}),
        environment_section(sessions),
        Section("Configuration", code=dump_yaml(first.config.model_dump(mode="json"))),
    ]
    rows = [
        {"model": model.name, "block": block, **row}
        for model in result.models
        for block, row in zip(model.blocks, layer_rows(model), strict=True)
    ]
    write_beside(folder / BESIDE, shown, ("layers.csv", csv_text(rows)))
    write_report(folder / PAGE, f"Inside {names}", shown)


def _arrays(result: InspectResult) -> bytes:
    import numpy as np

    found: dict[str, Any] = {}
    for number, model in enumerate(result.models):
        for block, one in zip(model.blocks, model.attention, strict=True):
            if one is not None:
                where = f"model{number}/block{block}"
                found |= {f"{where}/{name}": getattr(one, name).numpy()
                          for name in ("distance", "similarity", "entropy", "average")}  # fmt: skip
    found |= {f"cka/{name}": table.numpy() for name, table in result.cka.items()}
    content = io.BytesIO()
    np.savez_compressed(content, **found)
    return content.getvalue()


def _curves(result: InspectResult) -> Section:
    curves = []
    rows = {model.name: (model.blocks, layer_rows(model)) for model in result.models}
    for key, title in _CURVES.items():
        lines = {
            name: ([float(n) for n, row in zip(blocks, own, strict=True) if key in row],
                   [row[key] for row in own if key in row])
            for name, (blocks, own) in rows.items()
        }  # fmt: skip
        lines = {name: line for name, line in lines.items() if line[0]}
        if lines:
            curves.append(Curve(title, "block", lines))
    seen = ", ".join(f"{model.name}: {model.seen} {result.noun}s" for model in result.models)
    return Section("Layer by layer", seen, curves=curves)


def _maps(result: InspectResult) -> list[Section]:
    sections = []
    largest = [
        float(one.average.quantile(0.99))
        for model in result.models
        for one in model.attention
        if one is not None and one.average.numel() < 2**24
    ]
    for model in result.models:
        pictures = [
            (f"block {block}", _png(one.average, max(largest)))
            for block, one in zip(model.blocks, model.attention, strict=True)
            if one is not None and one.average.numel() < 2**24
        ]
        if pictures:
            text = "Rows are queries. Diagonals: fixed offsets; columns: places that all look at."
            sections.append(Section(f"Mean attention of {model.name}", text, pictures=pictures))
    return sections


def _alike(result: InspectResult, opened: Sequence[Opened]) -> list[Section]:
    sections, first = [], result.models[0]
    for name, table in result.cka.items():
        text = f"Rows: layers of {first.name}; columns: of {name}. Black 0, yellow 1."
        sections.append(Section(f"CKA of {first.name} and {name}", text,
                                pictures=[("layers", _png(table, 1.0))]))  # fmt: skip
    for name, (values, names) in result.agreement.items():
        other = next(model for model in result.models if model.name == name)
        theirs = set(other.ids.tolist())
        ids = [i for i in first.ids.tolist() if i in theirs]
        order = values.argsort()[:WORST].tolist()
        seen, maps = result.regions.get(name, ([], None))
        pictures = [] if maps is None else [("all patches", _png(1 - maps.mean(dim=0), 2.0))]
        for i in order:
            shown = _thumbnail(opened[0], ids[i])
            if shown is not None:
                pictures.append((f"{Path(names[i]).name} {values[i]:.2f}", shown))
                if ids[i] in seen:
                    patches = maps[seen.index(ids[i])]
                    pictures.append(("its patches", _png(1 - patches, 2.0)))
        rows = [(one, f"{mean:.3f}", str(count)) for one, mean, count in
                result.classes.get(name, [])]  # fmt: skip
        table = Table(("class", "alike", f"{result.noun}s"), rows) if rows else None
        text = (
            f"How alike {first.name} and {name} place each {result.noun} among {len(names)}: "
            f"correlation of its cosines to all others, {values.mean():.3f} on average. Those that "
            "they place least alike:"
        )
        if maps is not None:
            text += (
                " Beside each its patches, in the same way among the picture's others, and first "
                f"the mean over {len(seen)} pictures: yellow where they differ."
            )
        sections.append(Section(f"Where {first.name} and {name} differ", text, table=table,
                                pictures=pictures))  # fmt: skip
    return sections


def _landscapes(result: InspectResult) -> list[Section]:
    if not result.landscapes:
        return []
    curves = [
        Curve(title, "noise, lengths of the weights",
              {one.name: (one.lengths, getattr(one, key).mean(dim=0).tolist())
               for one in result.landscapes if getattr(one, key) is not None})
        for key, title in (("loss", "Loss"), ("accuracy", "Accuracy, percent"))
        if any(getattr(one, key) is not None for one in result.landscapes)
    ]  # fmt: skip
    pictures = [(one.name, _png(one.plane, float(one.plane.quantile(0.9))))
                for one in result.landscapes if one.plane is not None]  # fmt: skip
    text = "\n".join(str(one) for one in result.landscapes)
    return [Section("Around the weights", text, curves=curves, pictures=pictures)]


def _tables(result: InspectResult) -> list[Section]:
    sections = []
    for model in result.models:
        rows = layer_rows(model)
        shown = [key for key in COLUMNS if any(key in row for row in rows)]
        cells = [
            [str(block), *(COLUMNS[key][1].format(row[key]) if key in row else "" for key in shown)]
            for block, row in zip(model.blocks, rows, strict=True)
        ]
        header = ["block", *(COLUMNS[key][0] for key in shown)]
        sections.append(Section(model.name, table=Table(header, cells)))
    return sections


def _png(values: "Tensor", largest: float) -> bytes:
    """A table of numbers as a picture, in the colours of viridis from 0 to `largest`."""
    from matplotlib import colormaps
    from PIL import Image

    shades = (values / max(largest, 1e-12)).clamp(0, 1).numpy()
    picture = Image.fromarray((colormaps["viridis"](shades)[..., :3] * 255).astype("uint8"))
    longest = max(picture.size)
    times = max(1, _SIDE // longest)
    content = io.BytesIO()
    picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST).save(
        content, format="PNG"
    )
    return content.getvalue()


def _thumbnail(opened: Opened, sample: int) -> bytes | None:
    """A picture, small; None of what is no picture, or cannot be read any more."""
    from PIL import Image

    if opened.config.frames is not None:
        return None
    try:
        with Image.open(io.BytesIO(opened.source.read(sample))) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError):
        return None
    small.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return content.getvalue()
