"""`prepare`: verify a collection of videos, index it, re-encode it where that is asked."""

import os
from pathlib import Path
from typing import Any

from vistill.errors import UserError
from vistill.files import write_atomic
from vistill.locking import locked
from vistill.runs.results import say_notes
from vistill.runs.video_index import PrepareResult

_CODECS = ("h264", "hevc", "vp9")
_BOUNDS = {
    "short_side": (16, 16384),
    "gop": (1, 10000),
    "quality": (0, 63),
    "shards": (1, 1_000_000),
    "workers": (0, 512),
}


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
    wanted = {"short_side": short_side, "gop": gop, "codec": codec, "quality": quality}
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    _check(given if shards is None else {**given, "shards": shards}, transcode, workers)
    if quick and transcode:
        raise UserError(
            "--quick decodes three frames of a video and --transcode all of them; leave one out"
        )
    _check_limits(max_damaged, timeout)

    from vistill.data.archive import ShardSource
    from vistill.data.importers.collection import MISSING, Collection
    from vistill.data.parquet import require_parquet
    from vistill.data.video.inspect import DAMAGED
    from vistill.data.video.prepare import TIMEOUT, Work
    from vistill.data.video.transcode import Recipe
    from vistill.runs.video_index import carry_out, check_folder, claim
    from vistill.runs.videos import open_videos, which_videos

    require_parquet()
    folder = Path(out)
    origin = {"source": source, "format": format, "annotations": annotations, "root": root,
              "split": split, "classes": classes}  # fmt: skip
    videos = open_videos(
        **{name: None if x is None else os.fspath(x) for name, x in origin.items()}
    )
    path = videos.name
    say_notes(path, videos.notes)
    in_files = isinstance(videos.place(0), str) or isinstance(videos, ShardSource)
    if not transcode and not in_files:
        raise UserError(
            f"'{path}' is an archive, whose videos an index cannot name; train on it as it is, or "
            "re-encode it with --transcode"
        )
    settings = {
        **which_videos(origin),
        "quick": quick,
        "transcode": given if transcode else None,
        "shards": shards,
    }
    if max_damaged is not None and max_damaged != DAMAGED:
        settings["max_damaged"] = max_damaged
    work = Work(
        videos,
        folder,
        quick,
        Recipe(**given) if transcode else None,
        DAMAGED if max_damaged is None else max_damaged,
        TIMEOUT if timeout is None else timeout,
    )
    check_folder(folder, settings, overwrite=overwrite)
    with locked(folder):
        claim(folder, settings, overwrite=overwrite)
        if isinstance(videos, Collection):
            write_atomic(folder / MISSING, "".join(f"{name}\n" for name in videos.absent))
        return carry_out(work, shards, workers)


def _check(given: dict[str, Any], transcode: bool, workers: int | None) -> None:
    from vistill.config.suggest import did_you_mean

    if given and not transcode:
        name = next(iter(given)).replace("_", "-")
        raise UserError(f"--{name} is about re-encoding: add --transcode")
    for name, value in {**given, "workers": workers}.items():
        if name in _BOUNDS and value is not None:
            least, most = _BOUNDS[name]
            if not least <= value <= most:
                raise UserError(
                    f"--{name.replace('_', '-')} must be {least} to {most}, not {value}"
                )
    codec = given.get("codec", _CODECS[0])
    if codec not in _CODECS:
        near = did_you_mean(codec, _CODECS)
        raise UserError(f"--codec must be one of {', '.join(_CODECS)}, not {codec!r}{near}")


def _check_limits(max_damaged: float | None, timeout: float | None) -> None:
    if max_damaged is not None and not 0 <= max_damaged <= 1:
        raise UserError(f"--max-damaged must be a share from 0 to 1, not {max_damaged:g}")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise UserError(f"--timeout must be a number of seconds above 0, not {timeout:g}")
