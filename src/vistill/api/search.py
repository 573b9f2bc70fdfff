"""`index` and `search`: pictures and clips found by a sentence, or by what is like them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistill.api.pretrain import read_overrides
from vistill.config.loading import build_config
from vistill.config.samples import EmbedConfig

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone
    from vistill.runs.indexing import IndexResult
    from vistill.runs.searching import SearchResult


def index(
    data: str | os.PathLike[str],
    *,
    model: "str | os.PathLike[str] | Backbone",
    out: str | os.PathLike[str],
    window: float | None = None,
    stride: float | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> "IndexResult":
    """Embed pictures or clips into an index; one that is there is brought up to date.

    Args:
        data: pictures, or clips: for a model of clips, or with `window` or `frames=8`.
        model: a backbone, or a model of pictures and text (`open_clip/NAME:TAG`, `hf/NAME`).
        out: folder of the index; only new and changed files are embedded, deleted ones dropped.
        window, stride: seconds of the spans that clips are cut into, and from one to the next.
        overrides: settings of `vistill.config.samples.EmbedConfig`, such as `workers=4`.

    Raises:
        UserError: something to mend; an index that was there is left as it was.
    """
    from vistill.runs.embedding import embedder
    from vistill.runs.indexing import build_index, window_of

    config = build_config(EmbedConfig, {}, read_overrides(overrides))
    span = window_of(window, stride)
    made_by = embedder(config, model, of_clips=window is not None)  # type: ignore[arg-type]
    return build_index(made_by, os.fspath(data), Path(out), span)


def search(
    sentence: str | None = None,
    *,
    index: str | os.PathLike[str],
    like: str | os.PathLike[str] | None = None,
    top: int = 10,
    approximate: bool = False,
    html: str | os.PathLike[str] | None = None,
    model: "str | os.PathLike[str] | Backbone | None" = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
) -> "SearchResult":
    """Find what is most like a sentence, a picture or a clip; `str` of it is a table.

    Args:
        sentence: for an index by a model of pictures and text.
        index: folder of the index.
        like: a picture or clip; with a sentence as well, the mean of both is looked for.
        top: how many to find.
        approximate: by a graph that is built when first asked for (`vistill[search]`), not exactly.
        html: file to write as a page with pictures.
        model: the model of the index, where it is not to be found where it was.
        overrides: `device`, and other settings that change no numbers.

    Raises:
        UserError: something to mend, such as an index of another model.
    """
    from vistill.runs.searching import search_index

    config = build_config(EmbedConfig, {}, read_overrides(overrides))
    return search_index(
        Path(index),
        config,
        sentence=sentence,
        like=None if like is None else os.fspath(like),
        top=top,
        approximate=approximate,
        page=None if html is None else Path(html),
        model=model,  # type: ignore[arg-type]
    )
