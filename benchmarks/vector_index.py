"""Libraries of approximate nearest neighbours beside exact search: which one `vistill search` uses.

    pip install numpy torch faiss-cpu usearch hnswlib
    python benchmarks/vector_index.py --counts 10000 100000 1000000 --widths 384 512

Vectors are made: a thousand clusters of 40 degrees of freedom each, bent into the width,
normalised, as embeddings are; queries are further ones, so that none of them is in the index. All
graphs have 16 links a node, and 100 candidates in building and in search. Each library runs in a
process of its own on one thread; seconds are CPU seconds of all threads.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

KINDS = ("exact fp32", "exact fp16", "faiss", "usearch", "hnswlib")
LINKS, CANDIDATES, FOUND, QUERIES = 16, 100, 10, 200
BLOCK = 16_384


def vectors(count: int, width: int, out: Path) -> None:
    """Write `[count + QUERIES, width]` normalised float32."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, 40), dtype=np.float32) * 1.5
    bend = rng.standard_normal((40, width), dtype=np.float32) / 40**0.5
    array = np.lib.format.open_memmap(out, "w+", np.float32, (count + QUERIES, width))
    for start in range(0, len(array), BLOCK):
        rows = min(BLOCK, len(array) - start)
        inner = centres[rng.integers(1000, size=rows)]
        inner = inner + rng.standard_normal((rows, 40), dtype=np.float32)
        block = np.tanh(inner @ bend) + 0.05 * rng.standard_normal((rows, width), dtype=np.float32)
        array[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    array.flush()


def build(kind: str, base: np.ndarray, file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Make and save an index; return a search of one query."""
    width = base.shape[1]
    if kind.startswith("exact"):
        import torch

        torch.set_num_threads(1)
        stored = np.float32 if kind == "exact fp32" else np.float16
        np.save(file.with_suffix(".npy"), base.astype(stored))
        file.with_suffix(".npy").rename(file)
        mapped = torch.from_numpy(np.load(file, mmap_mode="c"))

        def exact(query: np.ndarray) -> np.ndarray:
            asked = torch.from_numpy(query)
            parts = mapped.split(BLOCK)
            scores = torch.cat([part.float() @ asked for part in parts])
            return scores.topk(FOUND).indices.numpy()

        return exact
    if kind == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
        graph = faiss.IndexHNSWSQ(
            width, faiss.ScalarQuantizer.QT_fp16, LINKS, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction, graph.hnsw.efSearch = CANDIDATES, CANDIDATES
        graph.train(base[:1000])
        for start in range(0, len(base), BLOCK):
            graph.add(base[start : start + BLOCK])
        faiss.write_index(graph, str(file))
        return lambda query: graph.search(query[None], FOUND)[1][0]
    if kind == "usearch":
        from usearch.index import Index

        tree = Index(
            ndim=width, metric="ip", dtype="f16", connectivity=LINKS,
            expansion_add=CANDIDATES, expansion_search=CANDIDATES,
        )  # fmt: skip
        for start in range(0, len(base), BLOCK):
            block = base[start : start + BLOCK]
            tree.add(np.arange(start, start + len(block)), block, threads=1)
        tree.save(str(file))
        return lambda query: tree.search(query, FOUND).keys
    import hnswlib

    flat = hnswlib.Index("ip", width)
    flat.init_index(len(base), M=LINKS, ef_construction=CANDIDATES)
    flat.set_num_threads(1)
    flat.set_ef(CANDIDATES)
    for start in range(0, len(base), BLOCK):
        flat.add_items(base[start : start + BLOCK])
    flat.save_index(str(file))
    return lambda query: flat.knn_query(query[None], FOUND)[0][0]


def measure(kind: str, data: Path) -> dict[str, float | str]:
    """One row of the table."""
    module = {"exact fp32": "torch", "exact fp16": "torch"}.get(kind, kind)
    begun = time.process_time()
    __import__(module)
    imported = time.process_time() - begun
    whole = np.load(data, mmap_mode="r")
    base, asked = whole[:-QUERIES], np.array(whole[-QUERIES:])
    truth = [set(row) for row in _truth(base, asked)]
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        file = Path(folder) / "index"
        begun = time.process_time()
        search = build(kind, base, file)
        built = time.process_time() - begun
        size = file.stat().st_size
        search(asked[0])
        few = asked[:20] if kind.startswith("exact") and len(base) > 100_000 else asked
        begun = time.process_time()
        found = [search(query) for query in few]
        spent = (time.process_time() - begun) / len(few)
    hits = [len(want & set(got.tolist())) for want, got in zip(truth, found, strict=False)]
    return {
        "kind": kind, "count": len(base), "width": base.shape[1], "import_s": imported,
        "build_s": built, "bytes": size, "recall": sum(hits) / len(hits) / FOUND,
        "query_ms": 1000 * spent,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def _truth(base: np.ndarray, asked: np.ndarray) -> np.ndarray:
    best = np.full((len(asked), FOUND), -2.0, np.float32)
    ids = np.zeros((len(asked), FOUND), np.int64)
    for start in range(0, len(base), BLOCK):
        scores = np.concatenate([best, asked @ base[start : start + BLOCK].T], axis=1)
        known = np.concatenate(
            [ids, np.tile(np.arange(start, start + scores.shape[1] - FOUND), (len(asked), 1))], 1
        )
        top = np.argpartition(-scores, FOUND - 1, axis=1)[:, :FOUND]
        best, ids = np.take_along_axis(scores, top, 1), np.take_along_axis(known, top, 1)
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 512])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]))))
        return
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    print(
        "| vectors | width | library | import s | build s | MB | recall@10 | ms a query | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for count in args.counts:
        for width in args.widths:
            with tempfile.TemporaryDirectory(dir=args.folder) as folder:
                data = Path(folder) / "vectors.npy"
                vectors(count, width, data)
                for kind in args.kinds:
                    command = [sys.executable, __file__, "--one", kind, str(data)]
                    told = subprocess.run(
                        command,
                        env=os.environ | threads,
                        capture_output=True,
                        text=True,
                        check=True,
                    )
                    row = json.loads(told.stdout)
                    print(
                        f"| {count} | {width} | {kind} | {row['import_s']:.2f} "
                        f"| {row['build_s']:.1f} | {row['bytes'] / 1e6:.0f} "
                        f"| {row['recall']:.3f} | {row['query_ms']:.2f} | {row['peak_mb']:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
