"""`inspect` and `rank_teachers`: what models are like inside, and which teacher to try first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.pretrain import read_overrides
from vistill.config.inspect import InspectConfig
from vistill.config.loading import build_config
from vistill.config.rank_teachers import RankConfig
from vistill.runs.inspection import InspectResult
from vistill.runs.ranking_teachers import RankResult

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

    config = build_config(InspectConfig, {}, read_overrides(overrides))
    folder = None if out is None else Path(out)
    return inspect_all(config, models, os.fspath(data), folder, around=landscape)


def rank_teachers(
    *teachers: "str | os.PathLike[str] | Backbone",
    data: str | os.PathLike[str],
    student: str | None = None,
    out: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> RankResult:
    """Compare teachers by their features on one's own pictures (see docs/choosing_a_teacher.md)."""
    from vistill.runs.ranking_teachers import rank_teachers

    config = build_config(RankConfig, {}, read_overrides(overrides))
    file = None if out is None else Path(out)
    return rank_teachers(config, teachers, os.fspath(data), student, file)
