"""Heads of fine-tuned models that were saved, or published with their head."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from vistill.config.clip_recipes import ClipSettings
from vistill.config.suggest import did_you_mean
from vistill.errors import UserError
from vistill.evaluation.classifier import Classifier, prepare_backbone
from vistill.files import near_path, write_atomic
from vistill.image_size import ImageSize
from vistill.locking import LOCK, locked
from vistill.models.backbone import Backbone
from vistill.models.export import DESCRIPTION, WEIGHTS, save_backbone
from vistill.models.files.weight_files import read_weights

HEAD = "head.safetensors"
_PARTS = ("fc_norm.", "head.")


@dataclass(frozen=True)
class Head:
    """What a classifier has behind its backbone.

    Attributes:
        state: `head.*` and, under average pooling, `fc_norm.*`.
        pool: which feature is classified.
        classes: names by output, or None where the file tells none.
        origin: where it came from.
        interpolation: how pictures are resized in tests.
    """

    state: dict[str, Tensor]
    pool: Literal["avg", "cls"]
    classes: list[str] | None
    origin: str
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return len(self.state["head.weight"])

    @property
    def names(self) -> list[str]:
        """Classes by output, numbered where nobody named them."""
        return self.classes or [str(number) for number in range(self.outputs)]


def save_classifier(
    classifier: Classifier,
    folder: Path,
    classes: list[str],
    clips: ClipSettings | None,
    value_range: tuple[float, float] | None = None,
) -> None:
    """Write a fine-tuned model: a backbone that loads like any other, and its head beside it.

    Args:
        classifier: what to write.
        folder: made if missing.
        classes: names by output.
        clips: how clips were taken from videos, which a test of this model then does too.
        value_range: numbers that were black and white, likewise.
    """
    backbone = classifier.student
    backbone.normalization = classifier.test_normalization
    facts: dict[str, Any] = {} if clips is None else {"clips": clips._asdict()}
    if value_range is not None:
        facts["value_range"] = value_range
    state = {k: v.cpu() for k, v in classifier.state_dict().items() if k.startswith(_PARTS)}
    interpolation = classifier.options.interpolation
    head = Head(state, classifier.pool, classes, str(folder), interpolation)
    save_with_head(backbone, head, folder, **facts)


def save_with_head(backbone: Backbone, head: Head, folder: Path, **facts: Any) -> None:
    """Write a backbone that loads like any other, and its head beside it."""
    save_backbone(backbone, folder, classes=head.names, untrained=False, **facts)
    told = {
        "classes": json.dumps(head.classes),
        "pool": head.pool,
        "interpolation": head.interpolation,
    }
    write_atomic(folder / HEAD, save(head.state, metadata=told))


def budget_folder(budget: float | str, seed: int) -> str:
    """Folder of the model that was trained with a label budget and a seed."""
    labels = budget.replace("/", "-per-") if isinstance(budget, str) else f"{budget:g}"
    return f"labels-{labels}-seed-{seed}"


@contextmanager
def new_folder(folder: str | None) -> Iterator[Path | None]:
    """Where fine-tuned models are saved, if anywhere; nobody else writes there meanwhile.

    Raises:
        UserError: the folder cannot be made, something is in it, or another process writes there.
    """
    path = None if folder is None else Path(folder)
    if path is not None and path.exists() and not _free(path):
        raise UserError(f"finetune.keep={folder} is there already; name a new folder")
    with locked(path):
        yield path


def _free(path: Path) -> bool:
    return path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())


def read_head(reference: str) -> Head:
    """The head of a saved or exported model (`run:DIR`) or of a published file (`file:PATH`).

    Raises:
        UserError: there is none.
    """
    kind, _, path = reference.partition(":")
    saved = find_head(reference)
    if saved is not None:
        return saved
    if kind == "file":
        from vistill.models.files.checkpoints import file_options

        file_path, options = file_options(path)
        published = read_weights(Path(file_path), options.get("branch")).state
        state = {name: value for name, value in published.items() if name.startswith(_PARTS)}
        if "head.weight" in state:
            return Head(state, "avg" if "fc_norm.weight" in state else "cls", None, reference)
    raise UserError(
        f"{reference} has no head: give a model that finetune.keep wrote, or a fine-tuned "
        "published file"
    )


def find_head(reference: Any) -> Head | None:
    """The head of a saved or exported model (`run:DIR`), or None."""
    if not isinstance(reference, str) or not reference.startswith("run:"):
        return None
    folder = Path(reference.removeprefix("run:"))
    if (folder / HEAD).is_file():
        with safe_open(folder / HEAD, "pt") as tensors:
            facts = tensors.metadata()
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        return _head(state, facts | {"classes": json.loads(facts["classes"])}, reference)
    if not (folder / DESCRIPTION).is_file():
        return None
    told = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if "head" not in told:
        return None
    names = {k: v for k, v in told["head"]["names"].items() if k.startswith(_PARTS)}
    with safe_open(folder / WEIGHTS, "pt") as tensors:
        state = {ours: tensors.get_tensor(theirs) for ours, theirs in names.items()}
    state["head.weight"] = state["head.weight"].flatten(1)
    return _head(state, told["head"] | {"classes": told["classes"]}, reference)


def _head(state: dict[str, Tensor], facts: dict[str, Any], origin: str) -> Head:
    return Head(
        state,
        "cls" if facts["pool"] == "cls" else "avg",
        facts["classes"],
        origin,
        "bilinear" if facts.get("interpolation") == "bilinear" else "bicubic",
    )


def with_head(
    backbone: Backbone, head: Head, image_size: ImageSize, frames: int | None = None
) -> Classifier:
    """The classifier that a head belongs to, for pictures of a size or clips of so many frames.

    Raises:
        UserError: head and backbone do not fit together, or the size does not suit.
    """
    model = prepare_backbone(backbone, image_size, head.pool, frames)
    classifier = Classifier(model, head.outputs, pool=head.pool)
    put_head(classifier, head)
    return classifier.eval()


def put_head(classifier: Classifier, head: Head) -> None:
    """Give a classifier the weights of a head.

    Raises:
        UserError: they are of another width, or of another feature.
    """
    if head.pool != classifier.pool:
        raise UserError(f"the head of {head.origin} is for pool={head.pool}; set it")
    try:
        classifier.load_state_dict(head.state, strict=False)
    except RuntimeError as error:
        raise UserError(f"the head of {head.origin} does not fit its backbone: {error}") from None


def head_rows(head: Head, num_classes: int, rows: str) -> Head:
    """The head of `num_classes` classes that some rows of another are (spec umt 7).

    Args:
        head: of more classes.
        num_classes: wanted.
        rows: `first`, or a file: a JSON list of as many rows, counted from 0.

    Raises:
        UserError: the head has too few rows, or the file is no such list.
    """
    chosen: Any = list(range(num_classes))
    if rows != "first":
        if not Path(rows).is_file():
            word = did_you_mean(rows, ["first", "fresh"]) or near_path(Path(rows))
            raise UserError(f"finetune.head={rows} is no file of rows{word}")
        try:
            chosen = json.loads(Path(rows).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"finetune.head={rows} is no JSON: {error}") from error
    if not isinstance(chosen, list) or any(type(row) is not int or row < 0 for row in chosen):
        raise UserError(f"finetune.head={rows} has to hold a list of numbers of rows, from 0")
    if len(chosen) != num_classes:
        raise UserError(
            f"finetune.head={rows} holds {len(chosen)} rows, and there are {num_classes} classes"
        )
    if max(chosen) >= head.outputs:
        raise UserError(
            f"finetune.head={rows} asks for row {max(chosen)} (counted from 0), and the head of "
            f"{head.origin} has {head.outputs}"
        )
    taken = {k: v[chosen] if k.startswith("head.") else v for k, v in head.state.items()}
    return replace(head, state=taken, classes=None)
