"""Exact frames of a video file by number, through PyAV.

Frames are counted by demuxing, never by the header. A frame is reached from the last key frame
before it; frames that nothing refers to are not decoded on the way. One decoder thread: loader
processes are what runs in parallel.
"""

import io
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.data.broken import BrokenImage

WORTH_A_SEEK = 8
"""Frames that have to be passed over before a jump to a key frame is cheaper."""
SKIPS_EXACTLY = ("h264", "hevc")
"""Codecs whose decoders are faster and still exact when they skip non-reference frames."""
UNRELIABLE_TIMES = ("mpeg4", "avi")
"""In AVI, MPEG-4 packs two frames into one packet and then tells their times in the wrong order."""


class BrokenVideo(BrokenImage):
    """This one video cannot be used; the text says why."""


class VideoReader:
    """A video file, open as long as the `with` block lasts.

    Args:
        source: path, or the file's bytes.

    Attributes:
        num_frames: frames that the file holds.
        times: seconds `[num_frames]` of every frame after the first.
        fps: frames per second, on average where the rate varies; 0 for a single frame.
        codec: name of the decoder.
        corrupt: frames so far that were damaged or could not be decoded, of those that were asked
            for.

    Raises:
        BrokenVideo: no video in it, or nothing that can be decoded.
    """

    def __init__(self, source: bytes | str) -> None:
        if source == b"":
            raise BrokenVideo("the file is empty")
        self._source = source
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self.corrupt = 0
        self._open()
        try:
            self._index()
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give file and decoder back; left to the garbage collector both would pile up."""
        self._container.close()

    @property
    def rotation(self) -> int:
        """Quarter turns, counterclockwise in degrees, that set the picture upright (applied)."""
        if self._rotation is None:
            self.read([0])
        return self._rotation or 0

    @property
    def width(self) -> int:
        """Pixels, upright."""
        context = self._stream.codec_context
        return context.height if self.rotation % 180 else context.width

    @property
    def height(self) -> int:
        """Pixels, upright."""
        context = self._stream.codec_context
        return context.width if self.rotation % 180 else context.height

    def between(self, start: float, end: float) -> range:
        """Numbers of the frames shown from `start` to `end` in seconds, at least one."""
        first, last = np.searchsorted(self.times, [start, end]).tolist()
        first = min(first, self.num_frames - 1)
        return range(first, max(last, first + 1))

    def read(self, indices: Sequence[int] | Int[np.ndarray, " t"]) -> UInt8[Tensor, "3 t h w"]:
        """Frames by number, in the order asked for and upright, as RGB.

        The tensor is a permuted view of time-height-width-channel memory. A frame that cannot be
        decoded repeats the nearest one before it that was asked for, else the first after it.

        Raises:
            BrokenVideo: more than half of the frames cannot be decoded.
        """
        wanted, places = np.unique(np.asarray(indices), return_inverse=True)
        found = self._decode(wanted.tolist())
        lost = len(wanted) - len(found)
        self.corrupt += lost
        if 2 * lost > len(wanted) or not found:
            raise BrokenVideo(f"{lost} of {len(wanted)} frames cannot be decoded")
        known = np.array(sorted(found))
        nearest = np.maximum(np.searchsorted(known, wanted, side="right") - 1, 0)
        frames = np.stack([found[known[i]] for i in nearest[places]])
        turned = np.rot90(frames, (self._rotation or 0) // 90 % 4, axes=(1, 2))
        return torch.from_numpy(np.ascontiguousarray(turned)).permute(3, 0, 1, 2)

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Every frame that can be decoded, one after the other, with its time in seconds.

        They are PyAV's frames: neither converted nor turned.
        """
        self._rewind()
        first = int(self._pts[0]) if len(self._pts) else 0
        for number, frame in enumerate(self._decoded()):
            self.corrupt += frame.is_corrupt
            if self._by_count or frame.pts is None:
                yield float(self.times[min(number, self.num_frames - 1)]), frame
            else:
                yield (frame.pts - first) * self._unit, frame

    @property
    def told_frames(self) -> int:
        """Frames that the header tells; 0 where it tells none."""
        return int(self._stream.frames)

    # ---- opening

    def _open(self) -> None:
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        try:
            self._container: InputContainer = av.open(source, "r", metadata_errors="ignore")
        except (FFmpegError, ValueError) as error:
            raise BrokenVideo(_reason(error)) from error
        stream = self._container.streams.best("video")
        if stream is None:
            kinds = sorted({other.type for other in self._container.streams})
            self._container.close()
            raise BrokenVideo(f"no video in it{', only ' + ', '.join(kinds) if kinds else ''}")
        self._stream: Any = stream
        self._stream.codec_context.thread_count = 1
        self._fresh = True

    def _index(self) -> None:
        """Presentation times of all frames, and which of them are key frames."""
        self._fresh = False
        times, keys, timeless = [], [], 0
        for packet in self._packets():
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                timeless += 1
                continue
            times.append(packet.pts)
            keys.append(packet.is_keyframe)
        order = np.argsort(times, kind="stable")
        self._pts = np.array(times, dtype=np.int64)[order]
        self._keys = np.flatnonzero(np.array(keys, dtype=bool)[order])
        self.num_frames = len(times) + timeless
        if self.num_frames == 0:
            raise BrokenVideo("no frame in it")
        self.codec: str = self._stream.codec_context.name
        doubled = bool(np.any(np.diff(self._pts) == 0))
        packed = (self.codec, self._container.format.name) == UNRELIABLE_TIMES
        self._by_count = bool(timeless) or doubled or packed
        seconds, rate = self._seconds(), self._stream.average_rate
        last = float(seconds[-1]) if len(seconds) else 0.0
        self.fps = (len(seconds) - 1) / last if last > 0 else float(rate or 0)
        if timeless:
            seconds = np.arange(self.num_frames) / (float(rate or 0) or 1.0)
        self.times: Float[np.ndarray, " n"] = seconds

    def _seconds(self) -> Float[np.ndarray, " n"]:
        self._unit = float(self._stream.time_base or 0)
        return (self._pts - self._pts[:1]) * self._unit

    # ---- decoding

    def _packets(self) -> Iterator[Any]:
        """Packets up to the end, or up to where the file is too damaged to go on."""
        try:
            yield from self._container.demux(self._stream)
        except FFmpegError:
            return

    def _decode(self, wanted: list[int]) -> dict[int, np.ndarray]:
        if self._by_count:
            return self._from_the_start(wanted)
        found: dict[int, np.ndarray] = {}
        for run in self._runs(wanted):
            for key in self._ways_in(run[0]):
                part = self._from_key(key, run)
                if part is not None:
                    found |= part
                    break
        return found

    def _runs(self, wanted: list[int]) -> Iterator[list[int]]:
        """Cut the wanted frames where jumping to a key frame saves decoding."""
        run: list[int] = []
        for frame in wanted:
            place = np.searchsorted(self._keys, frame, side="right") - 1
            if run and place >= 0 and self._keys[place] - run[-1] >= WORTH_A_SEEK:
                yield run
                run = []
            run.append(frame)
        yield run

    def _ways_in(self, frame: int) -> Iterator[int | None]:
        """Key frames before `frame`, nearest first, each jump twice as far; at last the start."""
        place, step = int(np.searchsorted(self._keys, frame, side="right")) - 1, 1
        while place >= 0:
            yield int(self._keys[place])
            place, step = place - step, 2 * step
        yield None

    def _from_key(self, key: int | None, run: list[int]) -> dict[int, np.ndarray] | None:
        """Decode a run of frames from a key frame, or from the start; None: it lies too late."""
        if key is None:
            self._rewind()
        elif not self._seek(key):
            return None
        numbers = {int(self._pts[frame]): frame for frame in run}
        skips = self._stream.codec_context.name in SKIPS_EXACTLY
        found: dict[int, np.ndarray] = {}
        first, last = int(self._pts[run[0]]), int(self._pts[run[-1]])
        begun = started = False
        for packet in self._packets():
            if skips:
                needed = not begun or packet.pts is None or packet.pts in numbers
                self._stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            begun = True
            for frame in _frames_of(packet):
                if frame.pts is None:
                    continue
                if not started and key is not None and frame.pts > first:
                    return None
                started = True
                if frame.pts in numbers:
                    found[numbers[frame.pts]] = self._pixels(frame)
                if len(found) == len(numbers) or frame.pts > last:
                    return found
        return found if started or key is None else None

    def _from_the_start(self, wanted: list[int]) -> dict[int, np.ndarray]:
        """Decode everything up to the last wanted frame and count."""
        self._rewind()
        found: dict[int, np.ndarray] = {}
        asked = set(wanted)
        for number, frame in enumerate(self._decoded()):
            if number in asked:
                found[number] = self._pixels(frame)
                if len(found) == len(wanted):
                    break
        return found

    def _decoded(self) -> Iterator[Any]:
        for packet in self._packets():
            yield from _frames_of(packet)

    def _seek(self, key: int) -> bool:
        self._fresh = False
        try:
            self._container.seek(int(self._pts[key]), stream=self._stream, backward=True)
        except FFmpegError:
            return False
        return True

    def _rewind(self) -> None:
        if not self._fresh:
            self._container.close()
            self._open()
        self._fresh = False

    def _pixels(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        if self._rotation is None:
            self._rotation = round(frame.rotation / 90) * 90
            self._shape = frame.width, frame.height
        self.corrupt += frame.is_corrupt
        width, height = self._shape  # of all frames, also where the stream changes its size
        return self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()


def _frames_of(packet: Any) -> list[Any]:
    """What the decoder gives for a packet: nothing where its bytes are damaged."""
    try:
        return packet.decode()
    except InvalidDataError:
        return []


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidDataError):
        return "damaged or no video"
    return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
