"""What `vistill prepare` does: check what was asked, then verify, index and re-encode videos."""

import os
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Encoding:
    """How videos are re-encoded, if at all; see `api.prepare`. None: the usual."""

    transcode: bool
    short_side: int | None
    gop: int | None
    codec: str | None
    quality: int | None
    shards: float | None

    def given(self) -> dict[str, Any]:
        """What was said of the encoder."""
        names = ("short_side", "gop", "codec", "quality")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def prepare_videos(
    origin: dict[str, Any],
    folder: Path,
    *,
    encoding: Encoding,
    quick: bool,
    max_damaged: float | None,
    timeout: float | None,
    workers: int | None,
    overwrite: bool,
) -> PrepareResult:
    """Verify every video of `origin` (a source, or a format and what belongs to it) and write an
    index to `folder`; the arguments and errors are those of `api.prepare`."""
    given, shards = encoding.given(), encoding.shards
    _check(given if shards is None else {**given, "shards": shards}, encoding.transcode, workers)
    if quick and encoding.transcode:
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
    videos = open_videos(
        **{name: None if x is None else os.fspath(x) for name, x in origin.items()}
    )
    path = videos.name
    say_notes(path, videos.notes)
    in_files = isinstance(videos.place(0), str) or isinstance(videos, ShardSource)
    if not encoding.transcode and not in_files:
        raise UserError(
            f"'{path}' is an archive, whose videos an index cannot name; train on it as it is, or "
            "re-encode it with --transcode"
        )
    settings = {
        **which_videos(origin),
        "quick": quick,
        "transcode": given if encoding.transcode else None,
        "shards": shards,
    }
    if max_damaged is not None and max_damaged != DAMAGED:
        settings["max_damaged"] = max_damaged
    work = Work(
        videos,
        folder,
        quick,
        Recipe(**given) if encoding.transcode else None,
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
