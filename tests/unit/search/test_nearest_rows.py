"""The best rows are found, in the order that scores and rows say."""

from pathlib import Path

import numpy as np
import pytest

from vistill.search import nearest as nearest_module
from vistill.search.nearest import nearest


@pytest.mark.parametrize("k", [1, 3, 7, 50, 100])
@pytest.mark.parametrize("block", [1, 4, 16, 1000])
def test_exact_search_is_a_sort(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "_BLOCK", block)
    rng = np.random.default_rng(0)
    # Few different rows, so that many scores are equal across blocks.
    rows = rng.integers(-1, 2, (50, 3)).astype(np.float32)
    query = np.array([1, 0.5, 0.25], np.float32)
    found = nearest(rows, query, k)
    order = np.lexsort((np.arange(50), -(rows @ query)))[:k]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.scores, (rows @ query)[order])


def test_exact_search_reads_a_memory_map(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    found = nearest(np.load(tmp_path / "rows.npy", mmap_mode="r"), rows[7], 1)
    assert found.rows.tolist() == [int(np.argmax(rows @ rows[7]))]


def test_the_graph_finds_what_a_sort_finds(tmp_path: Path) -> None:
    pytest.importorskip("usearch")
    from vistill.data.names import PackedNames
    from vistill.errors import UserError
    from vistill.search.index_folder import Entries, Index, MadeWith, Told
    from vistill.search.nearest import build_graph, graph_file, nearly_nearest

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = PackedNames(str(i) for i in range(2000))
    entries = Entries(
        names, np.full((2000, 2), np.nan), np.zeros(2000, bool), np.zeros((2000, 2), np.int64)
    )
    told = Told("m", MadeWith("", {}), "", None, "picture", None, None, False)
    index = Index(tmp_path, told, rows, entries, "0000")
    build_graph(index)
    hits = 0
    for query in rows[:50] + 0.1 * rng.standard_normal((50, 16)).astype(np.float32):
        exact, found = nearest(rows, query, 10), nearly_nearest(index, query, 10)
        hits += len(set(exact.rows.tolist()) & set(found.rows.tolist()))
        np.testing.assert_allclose(found.scores, rows[found.rows] @ query, rtol=1e-5)
    assert hits >= 490
    graph_file(index).write_bytes(b"no graph")
    with pytest.raises(UserError, match="damaged"):
        nearly_nearest(index, rows[0], 10)
