"""Draw README's picture from a finished demo: tiles of each class, and fine-tuned accuracies.

python scripts/demo/picture.py vistill-demo docs/demo.png
"""

import io
import json
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from vistill.data import open_source
from vistill.runs.demo.pictures import ASSETS

NAMES = {"distilled": "distilled\n(TinyMIM)", "alone": "alone\n(MAE)", "random": "not\npre-trained"}


def main(demo: str, target: str) -> None:
    """Read the scores in `demo` and write the PNG `target`."""
    cells = open_source(f"{ASSETS / 'cells.zip'}/test")
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    grid = left.subplots(len(cells.classes), 5)
    for row, (label, name) in enumerate(enumerate(cells.classes)):
        chosen = (cells.labels == label).nonzero()[0][::23]
        for axes, index in zip(grid[row], chosen, strict=False):
            axes.imshow(Image.open(io.BytesIO(cells.read(int(index)))))
            axes.set(xticks=[], yticks=[])
        grid[row][0].set_ylabel(name.replace("_", " "), fontsize=8)
    scores = {
        name: json.loads((Path(demo) / f"finetune-{name}.json").read_text())["summaries"][0]
        for name in NAMES
    }
    axes = right.subplots()
    for place, (name, score) in enumerate(scores.items()):
        top1, low, high = (100 * score[key] for key in ("top1", "low", "high"))
        colour = "#2a7f62" if name == "distilled" else "#b0b0b0"
        axes.bar(place, top1, color=colour, width=0.6)
        axes.errorbar(place, top1, yerr=[[top1 - low], [high - top1]], color="black", capsize=4)
        axes.text(place, 61, f"{top1:.1f} %", ha="center", color="white", weight="bold")
    axes.set_xticks(range(len(NAMES)), NAMES.values())
    axes.set_ylim(60, 100)
    labels = scores["distilled"]["labels_used"]
    axes.set_title(f"top-1 after fine-tuning on {labels} labels (95 % intervals)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
