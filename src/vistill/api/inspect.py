"""`inspect`: attention and tokens of every layer, of one model beside others."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.pretrain import read_overrides
from vistill.config.inspect import InspectConfig
from vistill.config.loading import build_config
from vistill.runs.inspection import InspectResult

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone


def inspect(
    *models: "str | os.PathLike[str] | Backbone",
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    landscape: bool = False,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> InspectResult:
    """Look inside models (see docs/inspect.md); `out` gets numbers and a page.

    Raises:
        UserError: something to mend.
    """
    from vistill.runs.inspect_all import inspect_all

    settings = read_overrides(overrides)
    config = build_config(InspectConfig, {}, settings)
    folder = None if out is None else Path(out)
    return inspect_all(config, models, os.fspath(data), folder, around=landscape)
