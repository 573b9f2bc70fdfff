"""The rows of an index that are most like a query: exactly, or by a graph of neighbours.

Exact search reads all embeddings once, a block at a time, from the memory map. The graph (HNSW, of
the usearch library, which maps it into memory too) is built when it is first asked for and kept
beside the embeddings; what it finds is compared exactly. docs/search.md has the figures of both.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vistill.errors import UserError
from vistill.files import PARTIAL
from vistill.search.index_folder import Index

_BLOCK = 16_384
_LINKS, _CANDIDATES, _MORE = 16, 128, 4


class Found(NamedTuple):
    """The best first.

    Attributes:
        rows: of the index.
        scores: cosines.
    """

    rows: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


def nearest(embeddings: Float[np.ndarray, "n d"], query: Float[np.ndarray, " d"], k: int) -> Found:
    """The `k` rows with the largest scalar products, of equal ones the earlier; exact."""
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, len(embeddings), _BLOCK):
        block = embeddings[start : start + _BLOCK] @ query
        rows = np.concatenate([rows, np.arange(start, start + len(block))])
        scores = np.concatenate([scores, block])
        if len(scores) > k:
            # All that could be among the best: a partition alone would choose among equals.
            least = -np.partition(-scores, k - 1)[k - 1]
            rows, scores = rows[scores >= least], scores[scores >= least]
    return _best(rows, scores, k)


def _best(rows: np.ndarray, scores: np.ndarray, k: int) -> Found:
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])


def require_approximate() -> None:
    """Raise a UserError where the library is missing."""
    if find_spec("usearch") is None:
        raise UserError(
            "approximate search (--approximate) needs an extra: pip install 'vistill[search]'; "
            "exact search needs none"
        )


def graph_file(index: Index) -> Path:
    """Where the graph of these rows is kept."""
    return index.folder / f"graph-{index.generation}.usearch"


def build_graph(index: Index) -> None:
    """Make the graph of an index, whose folder is locked, where there is none."""
    file = graph_file(index)
    if file.is_file():
        return
    graph = _empty(index, _CANDIDATES)
    for start in range(0, len(index.embeddings), _BLOCK):
        block = index.embeddings[start : start + _BLOCK]
        graph.add(np.arange(start, start + len(block)), block)
    made = file.with_name(f"{PARTIAL}{file.name}")
    graph.save(str(made))
    made.replace(file)


def _empty(index: Index, candidates: int) -> Any:
    from usearch.index import Index as Graph

    return Graph(
        ndim=index.embeddings.shape[1],
        metric="ip",
        dtype="f16",
        connectivity=_LINKS,
        expansion_add=_CANDIDATES,
        expansion_search=candidates,
    )


def nearly_nearest(index: Index, query: Float[np.ndarray, " d"], k: int) -> Found:
    """As `nearest`, by the graph, which may miss a few.

    Raises:
        UserError: the graph is damaged.
    """
    file, count = graph_file(index), min(len(index.embeddings), _MORE * k)
    graph = _empty(index, max(_CANDIDATES, count))
    try:
        graph.view(str(file))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it") from error
    if len(graph) != len(index.embeddings):
        raise UserError(f"{file} is damaged; delete it, and it is made anew")
    rows = np.sort(graph.search(query, count).keys.astype(np.int64))
    return _best(rows, index.embeddings[rows] @ query, k)
