"""What the user calls a model, as `vistill.models.build` reads it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.errors import UserError
from vistill.files import near_path
from vistill.models.sizes import LIBRARIES, is_function

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone
    from vistill.models.joint import JointModel

_KINDS = ("run:", "file:", *LIBRARIES)


def require_trained(backbone: "Backbone | JointModel", given: Any, *, or_say: str = "") -> None:
    """Raise a UserError if nobody trained `backbone`, which the user named as `given`; `or_say` is
    a flag that allows it."""
    if backbone.untrained:
        name = str(getattr(given, "origin", given))  # of an object, where its weights are from
        allowed = f", or say {or_say} if that is what you want" if or_say else ""
        raise UserError(
            f"{name} would have random weights; write timm/NAME:pretrained, run:DIR or file:PATH"
            f"{allowed}"
        )


def backbone_reference(source: Any, *, which: str | None = None) -> Any:
    """`run:DIR` for a folder, `file:PATH` for a file, anything else as it is.

    Raises:
        UserError: a path that is not there, or a run without the export that is asked for.
    """
    if not isinstance(source, str | os.PathLike):
        from vistill.models.backbone import require_backbone

        return require_backbone(source)
    text = os.fspath(source)
    if not text.startswith(_KINDS):
        place = Path(text)
        if place.is_dir() or (place.parent / "export" / place.name).is_dir():
            text = f"run:{text}"
        elif Path(text).is_file():
            text = f"file:{text}"
        elif os.sep in text and not is_function(text):
            raise UserError(f"{text} does not exist{near_path(text)}")
    if which is None or not text.startswith("run:"):
        return text
    where, _, module = text.removeprefix("run:").partition(",model=")
    run = Path(where)
    folder = run / "export" / which
    if not run.exists():  # RUN/NAME: one of several students
        folder = run.parent / "export" / run.name / which
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: {run} is no finished run")
    return f"run:{folder},model={module}" if module else f"run:{folder}"


def run_of(reference: Any, tells: str = "environment.json") -> Path | None:
    """The folder of the run that `run:DIR` is an export of, which has the file `tells`; or None."""
    kind, _, path = str(reference).partition(":")
    if kind != "run":
        return None
    place = Path(path)
    near = (place, *list(place.parents)[:3])
    return next((one for one in near if (one / tells).is_file()), None)


def with_module(reference: Any, module: Any) -> tuple[Any, Any]:
    """`run:DIR,model=FILE.py:NAME` taken apart; `module` where it was given beside it."""
    if isinstance(reference, str) and reference.startswith("run:"):
        reference, _, named = reference.partition(",model=")
        if named and module is not None and module != named:
            raise UserError(
                f"model={named} in the reference and another model beside it both say which "
                "module this is; leave one of them out"
            )
        module = named or module
    return reference, module


def name_of(model: Any) -> str:
    """What a model is called in a table: as the user wrote it, or of an object where it is from."""
    return str(model) if isinstance(model, str | os.PathLike) else str(model.origin)


def require_different(command: str, models: Sequence[Any]) -> list[str]:
    """The names of the models.

    Raises:
        UserError: two of them have the same one.
    """
    names = [name_of(model) for model in models]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{command} was given {double} twice; leave one of them out")
    return names
