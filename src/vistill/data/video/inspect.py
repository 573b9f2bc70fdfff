"""What a video file is and whether all of it can be decoded."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from vistill.data.broken import BrokenImage
from vistill.data.folder import open_file
from vistill.data.processes import beat
from vistill.data.video.frames import FrameFolder, open_video
from vistill.data.video.reader import Check

DAMAGED = 0.1
"""Share of frames that are damaged or lost above which a video has a problem."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Facts:
    """One row of the index, but for the name and the label.

    Attributes:
        duration: seconds.
        fps: frames per second, on average.
        frames: frames that are there.
        width, height: pixels, upright.
        size: bytes.
        codec: name of the decoder.
        corrupt: frames that are damaged or cannot be decoded.
        hash: SHA-256 of the bytes.
        problem: why it cannot be trained on; None where it can.
        proof: how its frames are reached, where its packets alone do not tell; see `Proof`.
    """

    duration: float = 0.0
    fps: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    size: int = 0
    codec: str = ""
    corrupt: int = 0
    hash: str = ""
    problem: str | None = None
    proof: dict[str, Any] | None = None


def inspect(place: str | bytes, *, quick: bool = False, max_damaged: float = DAMAGED) -> Facts:
    """Read a whole video, and compare what jumps to key frames give with it.

    `quick` looks at all packets, but decodes three frames only where these tell the frames' order.
    A video of which more than `max_damaged` of the frames are damaged or lost has a problem.
    """
    size, digest = 0, ""
    try:
        size, digest = _bytes_of(place)
        with open_video(place) as video:
            check = Check(video.num_frames, 0, 0) if quick else video.check()
            n = video.num_frames
            video.read([0, n // 2, n - 1] if quick else [0])
            return Facts(
                duration=float(video.times[-1]) + (1 / video.fps if video.fps else 0.0),
                fps=video.fps,
                frames=n,
                width=video.width,
                height=video.height,
                size=size,
                codec=video.codec,
                corrupt=(video.corrupt if quick else check.corrupt) + check.lost,
                hash=digest,
                problem=_problem(check, video.told_frames, max_damaged),
                proof=None if video.proof is None else video.proof.row(),
            )
    except BrokenImage as error:
        return Facts(size=size, hash=digest, problem=str(error))


def _problem(check: Check, told: int, max_damaged: float) -> str | None:
    decoded, lost, corrupt = check
    n = decoded + lost
    # Headers alone count frames that are not shown.
    truncated = lost > 0 and told > n
    if truncated:
        n, lost = told, told - decoded
    if lost + corrupt <= max_damaged * n:
        return None
    parts = [f"{lost} of {n} frames are missing or cannot be decoded"] if lost else []
    parts = [f"truncated: {decoded} of {n} frames"] if truncated else parts
    parts += [f"{corrupt} of {n} frames are damaged"] if corrupt else []
    return " and ".join(parts)


def _bytes_of(place: str | bytes) -> tuple[int, str]:
    if isinstance(place, bytes):
        return len(place), hashlib.sha256(place).hexdigest()
    if os.path.isdir(place):
        with FrameFolder(place) as folder:
            return folder.digest()
    digest = hashlib.sha256()
    with open_file(place) as file:
        while chunk := file.read(CHUNK):
            beat()
            digest.update(chunk)
    return os.path.getsize(place), digest.hexdigest()
