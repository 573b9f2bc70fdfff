"""A question to an index: a sentence, a picture or a clip."""

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vistill.config.samples import EmbedConfig
from vistill.data import BrokenFiles, Decoding, eval_batches, open_source
from vistill.data.columns import Row
from vistill.data.listing import Listed, ListSource
from vistill.data.source import CLIPS, PICTURES, Media, Stretch
from vistill.errors import UserError
from vistill.files import near_path
from vistill.locking import locked
from vistill.runs.embedding import Embedder, embedder, frames_of_clip
from vistill.runs.indexing import file_name
from vistill.search.index_folder import Index, read_index
from vistill.search.nearest import (
    build_graph,
    graph_file,
    nearest,
    nearly_nearest,
    require_approximate,
)
from vistill.search.page import Card, write_page
from vistill.search.thumbnails import thumbnail

if TYPE_CHECKING:
    from vistill.models.backbone import Backbone


@dataclass(frozen=True)
class Hit:
    """One that was found.

    Attributes:
        score: cosine to the query.
        file: its name in the index.
        path: where it is; None where it lies in an archive.
        start, end: the part of a clip; None: all of it.
        unit: of both: `s`, or `frames`.
    """

    score: float
    file: str
    path: str | None
    start: float | None = None
    end: float | None = None
    unit: str | None = None

    @property
    def span(self) -> Stretch | None:
        """The part of the clip."""
        if self.start is None or self.end is None:
            return None
        return Stretch(self.start, self.end, "frames" if self.unit == "frames" else "s")


@dataclass(frozen=True)
class SearchResult:
    """What was found.

    Attributes:
        index: folder of the index.
        sentence, like: what was asked.
        hits: the best first.
        searched: embeddings of the index.
    """

    index: Path
    sentence: str | None
    like: str | None
    hits: tuple[Hit, ...]
    searched: int

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        timed = any(hit.span is not None for hit in self.hits)
        table = Table(box=None, pad_edge=False)
        table.add_column("", justify="right")
        table.add_column("score", justify="right")
        table.add_column("file", overflow="fold")
        if timed:
            table.add_column("span", no_wrap=True)
        for rank, hit in enumerate(self.hits, start=1):
            cells = [str(rank), f"{hit.score:.3f}", _printable(hit.file)]
            table.add_row(*cells, *([str(hit.span or "")] if timed else []))
        text = io.StringIO()
        # A pipe is not cut to the width of a terminal.
        width = None if os.isatty(1) else 10_000
        Console(file=text, width=width, highlight=False, markup=False).print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def to_json(self) -> str:
        """All of it as JSON text."""
        content = asdict(self) | {"index": str(self.index)}
        return json.dumps(content, indent=2) + "\n"


def search_index(
    folder: Path,
    config: EmbedConfig,
    *,
    sentence: str | None,
    like: str | None,
    top: int,
    approximate: bool,
    page: Path | None,
    model: "str | Backbone | None",
) -> SearchResult:
    """Find what is most like a sentence, a picture or a clip.

    Args:
        folder: of the index.
        config: where and how to compute.
        sentence, like: one of them, or both, of which the mean is looked for.
        top: how many to find.
        approximate: by a graph of neighbours, which is built when first asked for.
        page: HTML file to write.
        model: the one that the index was made with, where it has been moved.

    Raises:
        UserError: something to mend.
    """
    if sentence is None and like is None:
        raise UserError("say what to look for: a sentence, or --like FILE")
    if sentence is not None and not sentence.strip():
        raise UserError("the sentence is empty")
    if top < 1:
        raise UserError(f"--top must be 1 or more, not {top}")
    if approximate:
        require_approximate()
    if page is not None and not page.absolute().parent.is_dir():
        raise UserError(f"folder {page.parent} does not exist")
    if page is not None and page.is_dir():
        raise UserError(f"{page} is a folder; name an HTML file to write")
    index = read_index(folder)
    if sentence is not None and not index.told.text:
        raise UserError(
            f"{folder} was made with {index.told.model}, which reads no text; look for a picture "
            "or clip with --like FILE, or make an index with a model of pictures and text, such as "
            "open_clip/NAME:TAG"
        )
    if like is not None:
        media = _media_of(index, like)
    made_by = _embedder_of(index, config, model)
    query = np.zeros(index.embeddings.shape[1], np.float32)
    if sentence is not None:
        query += _read(made_by, sentence)
    if like is not None:
        query += _look(made_by, media, like)
    query = _unit(query)
    if approximate:
        if not graph_file(index).is_file():
            with locked(folder):
                build_graph(index)
        found = nearly_nearest(index, query, top)
    else:
        found = nearest(index.embeddings, query, top)
    hits = tuple(
        _hit(index, row, score)
        for row, score in zip(found.rows.tolist(), found.scores.tolist(), strict=True)
    )
    result = SearchResult(folder, sentence, like, hits, len(index.embeddings))
    if page is not None:
        _show(result, index, page)
    return result


def _embedder_of(index: Index, config: EmbedConfig, model: "str | Backbone | None") -> Embedder:
    """The model of the index, which has to make the same numbers."""
    told, inputs = index.told, index.told.made_with.inputs
    size = inputs["size"]
    same: dict[str, Any] = {}
    if not told.text:
        same["image_size"] = tuple(size) if isinstance(size, list) else size
        same["pool"] = inputs["pool"]
    if inputs["value_range"] is not None:
        same["value_range"] = tuple(inputs["value_range"])
    if inputs["clips"]:
        names = ("frames", "stride", "sampling", "clips", "crops")
        same |= dict(zip(names, inputs["clips"], strict=True))
    settings = EmbedConfig(**config.model_dump(exclude_unset=True) | same)
    found = embedder(settings, model or told.model, of_clips=told.media == "clip", text=told.text)
    weights, made = found.job.made_with()
    if weights != told.made_with.weights:
        raise UserError(
            f"{index.folder} was made with {told.model} as it was then; the weights of "
            f"{model or told.model} are others, so make the index anew"
        )
    if made != inputs:
        key = next(key for key in made if made[key] != inputs.get(key))
        raise UserError(
            f"{index.folder} was made with {key} {inputs.get(key)}, and {model or told.model} now "
            f"has {made[key]}; make the index anew"
        )
    return found


def _media_of(index: Index, like: str) -> Media:
    """What a file is: if it can be both, what is in the index.

    Raises:
        UserError: it is not there.
    """
    path = Path(like)
    if not path.exists():
        raise UserError(f"--like {like} does not exist{near_path(path)}")
    if path.is_dir():
        return CLIPS
    kinds = (PICTURES, CLIPS) if index.told.media == "picture" else (CLIPS, PICTURES)
    return next((kind for kind in kinds if kind.holds(path.name)), kinds[0])


def _read(made_by: Embedder, sentence: str) -> np.ndarray:
    import torch

    assert made_by.read is not None
    made_by.job.module.to(made_by.job.world.device)
    with torch.no_grad():
        return _unit(made_by.read([sentence])[0].float().cpu().numpy())


def _look(made_by: Embedder, media: Media, like: str) -> np.ndarray:
    """The embedding of a picture or clip."""
    import torch

    job = made_by.job
    if media is PICTURES and not made_by.of_pictures:
        raise UserError(f"--like {like} is a picture, and {job.reference} takes clips; name a clip")
    clips = (job.clips or frames_of_clip(job.config)) if media is CLIPS else None
    rows = iter([Row(os.path.abspath(like))])
    listed = Listed(Path(like).absolute(), rows, f"--like {like}", False, [])
    source = ListSource(like, [listed], media)
    source.decoding = Decoding(job.config.value_range, job.config.allow_truncated)
    transform, decode = replace(job.inputs, clips=clips).testing(job.interpolation)
    broken = BrokenFiles(1, max_share=1.0, noun=media.noun)
    device = job.world.device
    job.module.to(device)
    batches = eval_batches(
        source,
        np.array([0]),
        transform,
        batch_size=1,
        workers=0,
        broken=broken,
        decode=decode,
        timeout=job.config.timeout,
    )
    with torch.no_grad():
        found = [job.compute(batch.to(device)).double().cpu().numpy() for batch in batches]
    if not found:
        raise UserError(f"--like {like} cannot be read: {', '.join(broken.names.values())}")
    return _unit(found[0].mean(axis=0).astype(np.float32))


def _unit(query: np.ndarray) -> np.ndarray:
    return (query / max(float(np.linalg.norm(query)), 1e-12)).astype(np.float32)


def _hit(index: Index, row: int, score: float) -> Hit:
    name, span = index.entries.files[row], index.entries.span(row)
    base = index.told.base
    path = None if base is None else os.path.normpath(os.path.join(base, name))
    if span is None:
        return Hit(score, name, path)
    return Hit(score, name, path, span.start, span.end, span.unit)


def _show(result: SearchResult, index: Index, page: Path) -> None:
    """Write the HTML page."""
    told = index.told
    value_range = told.made_with.inputs["value_range"]
    clip = told.media == "clip"
    places: dict[str, str | bytes] = {hit.file: hit.path for hit in result.hits if hit.path}
    if told.base is None and result.hits:
        places = _from_archive(index, {hit.file for hit in result.hits})

    def small(place: str | bytes, span: Stretch | None) -> bytes | None:
        limits = None if value_range is None else tuple(value_range)
        return thumbnail(place, clip=clip, span=span, value_range=limits)

    cards = [
        Card(
            hit.file,
            "" if hit.span is None else str(hit.span),
            hit.score,
            small(places[hit.file], hit.span) if hit.file in places else None,
        )
        for hit in result.hits
    ]
    asked = [f"“{result.sentence}”"] if result.sentence else []
    asked += [f"like {Path(result.like).name}"] if result.like else []
    note = f"{len(cards)} of {result.searched} embeddings of {told.data} by {told.model}"
    like = None
    if result.like is not None:
        is_clip = _media_of(index, result.like) is CLIPS
        like = thumbnail(result.like, clip=is_clip, span=None, value_range=None)
    write_page(page, " and ".join(asked), note, cards, like)


def _from_archive(index: Index, names: set[str]) -> dict[str, str | bytes]:
    """The bytes of samples that are no files of their own, as far as they are still there."""
    told = index.told
    try:
        media = "image" if told.media == "picture" else "video"
        source = open_source(told.data, media, root=told.root)  # type: ignore[arg-type]
    except UserError:
        return {}
    positions = {name: i for i in range(len(source)) if (name := file_name(source, i)) in names}
    return {name: source.place(i) for name, i in positions.items()}


def _printable(name: str) -> str:
    """A name for a table: without what would move the cursor."""
    return "".join(c if c.isprintable() else "�" for c in name)
