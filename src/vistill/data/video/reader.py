"""Exact frames of a video file by number.

A frame's number is its place in what the decoder gives out from the start of the file. To decode
from a key frame gives the same frames under two conditions: that the jump led to that key frame,
which `VideoFile` sees to, and that it is known which frame comes of which packet. The packets tell
(`vistill.data.video.packets`), or a full decode, once a file and process or remembered by `vistill
prepare`. Where one fails, frames are decoded from the start.
"""

import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vistill.data.video.file import BrokenVideo, Elsewhere, VideoFile
from vistill.data.video.packets import NONE
from vistill.data.video.pose import Pose
from vistill.data.video.proof import Proof

__all__ = ["BrokenVideo", "VideoReader"]

WORTH_A_SEEK = 8
"""Frames that have to be passed over before a jump to a key frame is cheaper."""
SPACED, COMPARED = 24, 4
"""A full decode tries key frames so many frames apart, and compares so many frames after each."""
REMEMBERED = 4096
_proofs: OrderedDict[int, Proof] = OrderedDict()
"""Of this process, by the checksum of the packets: what is decoded in full is so once."""


class Check(NamedTuple):
    """What a full decode of a video came to: frames that came out, those that were lost, and
    damaged ones among the first."""

    decoded: int
    lost: int
    corrupt: int


class _OutOfOrder(Exception):
    """The decoder's order is not what the packets told."""


class VideoReader:
    """A video file, open as long as the `with` block lasts.

    Args:
        source: path, or the file's bytes.
        proof: what `vistill prepare` found out about it; counts only for the very same packets.

    Attributes:
        num_frames: frames that the file holds. Those before the first that can be decoded, in
            a recording that begins between key frames, are none.
        times: seconds `[num_frames]` of every frame after the first.
        fps: frames per second, on average where the rate varies; 0 for a single frame.
        codec: name of the decoder.
        proof: what a full decode found out; None where the packets alone tell as much.
        corrupt: frames so far that were damaged or could not be decoded, of those that were asked
            for.

    Raises:
        BrokenVideo: no video in it, or nothing that can be decoded.
    """

    def __init__(self, source: bytes | str, proof: Proof | None = None) -> None:
        self._reformatter = VideoReformatter()
        self._pose: Pose | None = None
        self._check: Check | None = None
        self._order: Int[np.ndarray, " n"] = np.array([], dtype=np.int64)
        self.proof: Proof | None = None
        self.corrupt = 0
        self._file = VideoFile(source)
        self.codec = self._file.codec
        try:
            self._find_order(proof)
        except BaseException:
            self.close()
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
        self._file.close()

    @property
    def rotation(self) -> int:
        """Quarter turns, counterclockwise in degrees, that set the picture upright (applied)."""
        return self._known_pose().rotation

    @property
    def mirrored(self) -> bool:
        """Whether left and right have to change places after the turn (applied)."""
        return self._known_pose().mirrored

    @property
    def width(self) -> int:
        """Pixels, upright."""
        context = self._file.context
        return context.height if self.rotation % 180 else context.width

    @property
    def height(self) -> int:
        """Pixels, upright."""
        context = self._file.context
        return context.width if self.rotation % 180 else context.height

    def upright(self, pixels: UInt8[np.ndarray, "*t h w 3"]) -> UInt8[np.ndarray, "*t h w 3"]:
        """A view of the pixels of frames, turned and mirrored."""
        return self._known_pose().upright(pixels)

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
        rows = {number: row for row, number in enumerate(wanted.tolist())}
        blocks: list[UInt8[np.ndarray, "n h w 3"]] = []  # one, once a frame's size is known

        def keep(number: int, frame: Any) -> bool:
            pixels = self._rgb(frame)
            if not blocks:
                blocks.append(np.empty((len(wanted), *pixels.shape), np.uint8))
            blocks[0][rows[number]] = pixels
            return True

        try:
            found = self._collect(list(rows), keep)
        except _OutOfOrder:
            self._prove()
            found = self._collect(wanted[wanted < self.num_frames].tolist(), keep)
        lost = len(wanted) - len(found)
        self.corrupt += lost
        if 2 * lost > len(wanted) or not found:
            raise BrokenVideo(f"{lost} of {len(wanted)} frames cannot be decoded")
        if lost:
            known = np.array([rows[number] for number in sorted(found)])
            places = known[np.maximum(np.searchsorted(known, places, side="right") - 1, 0)]
        frames = blocks[0]
        if lost or not np.array_equal(places, np.arange(len(frames))):
            frames = frames[places]
        return torch.from_numpy(np.ascontiguousarray(self.upright(frames))).permute(3, 0, 1, 2)

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Every frame that can be decoded, one after the other, with its number.

        They are PyAV's frames: neither converted nor turned.
        """
        for number, frame in self._numbered(None):
            self.corrupt += frame.is_corrupt
            yield number, frame

    @property
    def told_frames(self) -> int:
        """Frames that the header tells; 0 where it tells none."""
        return int(self._file.stream.frames)

    # ---- numbers

    def _find_order(self, proof: Proof | None) -> None:
        packets = self._file.packets
        if proof or _proofs:
            checksum = packets.checksum
            proof = proof if proof and proof.packets == checksum else _proofs.get(checksum)
        if proof is not None:
            self._use(proof)
            return
        order = self._file.told_order()
        if order is None:
            self._prove()
        else:
            self._number(order, np.flatnonzero(packets.keys))

    def _use(self, proof: Proof) -> None:
        self.proof = proof
        self._number(proof.order, proof.entries)

    def _number(self, order: Int[np.ndarray, " n"], entries: Int[np.ndarray, " k"]) -> None:
        """Set numbers and times of frames by the order of their packets, and where to begin."""
        packets, stream = self._file.packets, self._file.stream
        self._order, self.num_frames = order, len(order)
        numbers = np.full(len(packets), -1)
        numbers[order[::-1]] = np.arange(len(order))[::-1]
        self._numbers: list[int] = numbers.tolist()
        latest = np.maximum.accumulate(numbers)  # of what is decoded until then
        self._keys = numbers[[place for place in entries if 0 <= numbers[place] == latest[place]]]
        times, rate = packets.times(order), float(stream.average_rate or 0)
        self.times: Float[np.ndarray, " n"] = np.arange(len(order)) / (rate or 1.0)
        if times is not None:
            self.times = (times - times[0]) * float(stream.time_base or 0)
        last = float(self.times[-1])
        self.fps = (len(order) - 1) / last if last > 0 else rate

    def check(self) -> Check:
        """Decode the whole file and compare with it what jumps to key frames give; sets `proof`.

        Raises:
            BrokenVideo: nothing can be decoded.
        """
        return self._check or self._prove()

    def _prove(self) -> Check:
        order: list[int] = []
        digests: list[int] = []
        corrupt, before, torn = 0, len(self._file.refused), 0
        with self._file.listening():
            for place, frame in self._file.pictures():
                torn = torn if order else self._file.torn
                order.append(place)
                digests.append(_digest(frame))
                corrupt += frame.is_corrupt
        if not order:
            raise BrokenVideo("no frame can be decoded")
        # What is said of packets before the first frame is no damage.
        refusals = set(self._file.refused[before:])
        times = self._file.packets.pts
        shown = np.flatnonzero((times >= times[order[0]]) | (times == NONE)).tolist()
        later = {place for place in shown if place >= order[0]}
        complaints = later & set(self._file.complained) - refusals
        corrupt = min(max(corrupt, len(complaints)), len(order))
        refused = len(later & refusals)
        lost = len(self._order) - len(order)
        found = [self._numbers[place] for place in order] if len(self._order) else [-1]
        told = found[0] >= 0 and 0 <= lost <= refused and bool((np.diff(found) > 0).all())
        if not told:
            lost, found = refused, list(range(len(order)))
            self._number(np.array(order), np.flatnonzero(self._file.packets.keys))
        gone = self._gone() if self._file.torn > torn else 0
        self._check = Check(len(order), max(lost, gone), corrupt)
        decoded, spaced = dict(zip(found, digests, strict=True)), _spaced(self._keys.tolist())
        entries = [int(self._order[key]) for key in spaced if self._is_entry(key, decoded)]
        if not told or len(entries) < len(spaced):
            arrays = (np.array(places, dtype=np.int32) for places in (self._order, entries))
            proof = Proof(self._file.packets.checksum, *arrays)
            self._use(proof)
            _proofs[proof.packets] = proof
            if len(_proofs) > REMEMBERED:
                _proofs.popitem(last=False)
        return self._check

    def _gone(self) -> int:
        """Frames that the times have room for, where the container is torn."""
        steps = np.diff([*self.times, max(self.times[-1], self._file.told_seconds)])
        usual = float(np.median(steps)) or 1.0
        gaps = np.maximum(np.rint(steps / usual) - 1, 0)
        return int(gaps.sum())

    def _is_entry(self, key: int, decoded: dict[int, int]) -> bool:
        """Whether decoding from a key frame gives frames of the same digests."""
        run = [number for number in range(key, key + COMPARED) if number in decoded]
        return self._from_key(key, run, lambda _, frame: _digest(frame)) == {
            number: decoded[number] for number in run
        }

    # ---- frames

    def _collect(self, wanted: list[int], keep: Callable[[int, Any], Any]) -> dict[int, Any]:
        """What is kept of frames, by number."""
        found: dict[int, Any] = {}
        refused = len(self._file.refused)
        for run in self._runs(wanted):
            for key in self._ways_in(run[0]):
                found |= self._from_key(key, run, keep) or {}
                run = [number for number in run if number not in found]
                if not run:
                    break
            if run and len(self._file.refused) == refused:
                self._doubt()
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
        if run:
            yield run

    def _ways_in(self, frame: int) -> Iterator[int | None]:
        """Key frames before `frame`, nearest first, each jump twice as far; at last the start."""
        place, step = int(np.searchsorted(self._keys, frame, side="right")) - 1, 1
        while place >= 0:
            yield int(self._keys[place])
            place, step = place - step, 2 * step
        yield None

    def _from_key(
        self, key: int | None, run: list[int], keep: Callable[[int, Any], Any]
    ) -> dict[int, Any] | None:
        """What is kept of a run of frames, decoded from a key frame or the start; None: the way in
        does not lead to them."""
        found: dict[int, Any] = {}
        wanted, last = set(run), -1
        try:
            for number, frame in self._numbered(key, run):
                late = number > run[0] or (number == key and not frame.key_frame)
                if key is not None and last < 0 and late:
                    return None
                if number <= last:
                    self._doubt()
                    if key is not None:
                        return None
                last = number
                if number in wanted:
                    found[number] = keep(number, frame)
                if len(found) == len(wanted) or number > run[-1]:
                    return found
        except Elsewhere:
            return None
        return found if last >= 0 or key is None else None

    def _doubt(self) -> None:
        """Frames do not come as the packets tell: find out how, unless all was decoded before."""
        if self.proof is None and self._check is None:
            raise _OutOfOrder

    def _numbered(
        self, key: int | None, wanted: list[int] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers, without those before the first; others than the wanted ones
        may be left out."""
        start = None if key is None else int(self._order[key])
        places = None if wanted is None else set(self._order[wanted].tolist())
        before, again = -1, 0
        for place, frame in self._file.pictures(start, places):
            again = again + 1 if place == before else 0  # two frames of one packet
            before = place
            number = self._numbers[place]
            if number >= 0:
                yield number + again, frame

    def _known_pose(self) -> Pose:
        if self._pose is None:
            self.read([0])
        return self._pose or Pose(0, False)

    def _rgb(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        """A view of the pixels, as long as the frame is not converted again."""
        if self._pose is None:
            self._pose = Pose.of(frame)
            self._shape = frame.width, frame.height
        self.corrupt += frame.is_corrupt
        width, height = self._shape  # of all frames, also where the stream changes its size
        plane: Any = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).planes[0]
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return lines[:height, : 3 * width].reshape(height, width, 3)


def _spaced(keys: list[int]) -> list[int]:
    chosen = keys[:1]
    for key in keys:
        if key >= chosen[-1] + SPACED:
            chosen.append(key)
    return chosen


def _digest(frame: Any) -> int:
    """Of the first plane, which is the luma where there is one."""
    plane, kind = frame.planes[0], frame.format
    bits = 8 * -(-kind.components[0].bits // 8) if len(frame.planes) > 1 else kind.bits_per_pixel
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return zlib.crc32(rows[: plane.height, : plane.width * bits // 8].tobytes())
