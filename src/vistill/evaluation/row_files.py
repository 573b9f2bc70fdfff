"""Features and predictions as files: NumPy arrays, Parquet, CSV."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from vistill.data import Source
from vistill.evaluation.rows import Rows, in_slices, move_into_place
from vistill.files import atomic_writer


def write_features(rows: Rows, source: Source, out: Path, folder: Path) -> None:
    """Write one feature per readable sample, in the order of the source.

    `.parquet`: columns `path`, `label` where there are labels, and `feature`, a list of float32.
    `.npz`: `features` `[n, D]`, `paths` and, with labels, `labels`. `.npy`: the array alone, which
    `numpy.load(..., mmap_mode="r")` maps, with `path` and `label` of its rows in `FILE.npy.csv`.

    Args:
        rows: the features.
        source: of the samples.
        out: its suffix is the format.
        folder: for what is not whole yet, on the disk of `out`.
    """
    if out.suffix == ".parquet":
        _write_parquet(out, _feature_tables(rows, source))
        return
    if out.suffix == ".npz":
        arrays: dict[str, Any] = {"features": rows.values[rows.ids]}
        arrays["paths"] = np.array([source.sample_name(i) for i in rows.ids.tolist()])
        if source.labels is not None:
            arrays["labels"] = np.array(_labels(source, rows.ids))
        with atomic_writer(out) as file:
            np.savez(file, **arrays)
        return
    made = folder / "whole.npy"
    array = open_memmap(made, "w+", np.float32, (len(rows.ids), rows.values.shape[1]))
    start = 0
    for ids, values in in_slices(rows):
        array[start : start + len(ids)] = values
        start += len(ids)
    array.flush()
    head = ["path", *(["label"] if source.labels is not None else [])]
    _write_csv(Path(f"{out}.csv"), head, (_named(source, ids) for ids, _ in in_slices(rows)))
    move_into_place(made, out)


def write_predictions(
    rows: Rows, source: Source, classes: list[str], top_k: int, out: Path
) -> None:
    """Write the likeliest classes of every readable sample, in the order of the source.

    Columns: `path`, `label` where there are labels, and `class_1`, `probability_1` to `class_K`,
    `probability_K`.

    Args:
        rows: probabilities of all classes.
        source: of the samples.
        classes: their names.
        top_k: how many are told.
        out: `.csv` or `.parquet`.
    """
    head = ["path", *(["label"] if source.labels is not None else [])]
    numbered = [(f"class_{k}", f"probability_{k}") for k in range(1, top_k + 1)]
    head += [name for pair in numbered for name in pair]
    if out.suffix == ".csv":
        _write_csv(
            out, head, (_ranked(source, ids, p, classes, top_k) for ids, p in in_slices(rows))
        )
        return
    import pyarrow as pa

    def tables() -> Iterator[Any]:
        for ids, values in in_slices(rows):
            columns = zip(*_ranked(source, ids, values, classes, top_k), strict=True)
            yield pa.table(
                {
                    name: pa.array(
                        [float(v) for v in column] if name.startswith("probability_") else column,
                        pa.float32() if name.startswith("probability_") else pa.string(),
                    )
                    for name, column in zip(head, columns, strict=True)
                }
            )

    _write_parquet(out, tables())


def _ranked(
    source: Source, ids: np.ndarray, values: np.ndarray, classes: list[str], top_k: int
) -> list[list[str]]:
    order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    found = []
    for named, row, best in zip(_named(source, ids), values, order, strict=True):
        told = [text for k in best.tolist() for text in (classes[k], f"{row[k]:.6f}")]
        found.append([*named, *told])
    return found


def _named(source: Source, ids: np.ndarray) -> list[list[str]]:
    names = [[source.sample_name(i)] for i in ids.tolist()]
    if source.labels is None:
        return names
    return [[*name, label] for name, label in zip(names, _labels(source, ids), strict=True)]


def _labels(source: Source, ids: np.ndarray) -> list[str]:
    assert source.labels is not None
    classes = source.classes or []
    return [classes[label] if label >= 0 else "" for label in source.labels[ids].tolist()]


def _feature_tables(rows: Rows, source: Source) -> Iterator[Any]:
    import pyarrow as pa

    for ids, values in in_slices(rows):
        flat = pa.array(np.ascontiguousarray(values).reshape(-1), pa.float32())
        columns = {"path": [source.sample_name(i) for i in ids.tolist()]}
        if source.labels is not None:
            columns["label"] = _labels(source, ids)
        feature = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        yield pa.table({**columns, "feature": feature})


def _write_parquet(out: Path, tables: Iterator[Any]) -> None:
    import pyarrow.parquet as pq

    with atomic_writer(out) as file:
        first = next(tables)
        with pq.ParquetWriter(file, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)


def _write_csv(out: Path, head: list[str], parts: Iterator[list[list[str]]]) -> None:
    with atomic_writer(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text)
        writer.writerow(head)
        for rows in parts:
            writer.writerows(rows)
        text.detach()
