"""`prepare`: verify a collection of videos, index it, re-encode it where that is asked."""

import os
from pathlib import Path

from vistill.runs.video_index import PrepareResult


def prepare(
    source: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    format: str | None = None,
    annotations: str | os.PathLike[str] | None = None,
    split: str | None = None,
    classes: str | os.PathLike[str] | None = None,
    quick: bool = False,
    transcode: bool = False,
    short_side: int | None = None,
    gop: int | None = None,
    codec: str | None = None,
    quality: int | None = None,
    shards: float | None = None,
    root: str | os.PathLike[str] | None = None,
    max_damaged: float | None = None,
    timeout: float | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> PrepareResult:
    """Verify every video of a collection and write an index that `pretrain` and `evaluate` read.

    The same call continues an interrupted one, and looks at new and changed videos only.

    Args:
        source: a folder, list, `.tar` shards or `.zip` of videos, the last with `transcode` only;
            none where a `format` is given.
        out: folder for `index.parquet` and the re-encoded videos.
        format: of a published collection, see `vistill.data.importers.forms`; its clips are those
            of `annotations` that lie in `root`.
        annotations: file of the format, or several by a glob or their folder.
        split: of several `train`, `val` and `test`, which one; default: all, with an index for
            each.
        classes: file of the names of numbered classes.
        quick: decode three frames of every video instead of all.
        transcode: re-encode, upright and without sound; the index then names the new files.
        short_side: pixels of the shorter side (256); smaller videos keep their size.
        gop: frames from one key frame to the next (8).
        codec: `h264`, `hevc` or `vp9`.
        quality: constant rate factor of the encoder, less is better (23).
        shards: pack the new files into `.tar` shards of so many megabytes.
        root: folder at which relative paths of a list start; default: the list's own. Of a format
            the folder of the videos, or of folders of frames.
        max_damaged: share of damaged frames above which a video has a problem (0.1).
        timeout: seconds without a sign of life after which reading a video is given up, and as many
            more for every gigabyte of it (300); without effect where `workers` is 0.
        workers: processes (0: none); default: one a core, at most 8.
        overwrite: start anew in a folder that was prepared otherwise.

    Raises:
        UserError: something to mend, told in one sentence before any work.
        Failure: the work could not go on, as on a full disk, or videos are left undone, as for want
            of memory. What is done is kept, and the same call continues.
    """
    from vistill.runs.preparing import Encoding, prepare_videos

    return prepare_videos(
        {"source": source, "format": format, "annotations": annotations, "root": root,
         "split": split, "classes": classes},
        Path(out),
        encoding=Encoding(transcode, short_side, gop, codec, quality, shards),
        quick=quick,
        max_damaged=max_damaged,
        timeout=timeout,
        workers=workers,
        overwrite=overwrite,
    )  # fmt: skip
