"""What the packets of a video tell without being decoded: which they are, and how their pictures
follow one another.

A decoder gives pictures out in another order than it takes them in where there are B-frames. Times
tell that order only if they are the recording's own. AVI and ASF hold none, so that a player makes
them up, and a file that was copied from there keeps what was made up: MPEG-1, 2 and 4 are therefore
put in order by the kinds of their pictures, H.264 and H.265 by their times where these agree with
what the stream says of itself.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Int

NONE = np.iinfo(np.int64).min
"""A time or position that the file does not tell."""
PICTURE = {"mpeg1video": b"\0\0\1\0", "mpeg2video": b"\0\0\1\0", "mpeg4": b"\0\0\1\xb6"}
"""Start codes of a picture (ISO 11172-2 2.4.2.5, 13818-2 6.2.3, 14496-2 6.2.5)."""
EMPTY_VOP = 8
"""Bytes of an MPEG-4 picture that is not coded, at most."""
PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:b|Build)\d+p")
"""What MPEG-4 with two pictures in a packet says of itself; its decoder then delays the second."""
IDR = re.compile(rb"\x00\x00\x01[\x05\x25\x45\x65]")
"""An H.264 picture from which all is new (ISO 14496-10 7.4.1)."""
BY_TIMES = ("h264", "hevc")
PROGRESSIVE = 1


@dataclass(frozen=True)
class Packets:
    """All packets of a video in the file's order.

    Attributes:
        pts, dts: time and decoding time of each, or `NONE`.
        pos: byte where it lies in the file, or None.
        size: bytes.
        keys: whether a decoder may start there; where pictures are packed only if it is told so.
        shown: whether a picture comes of it.
        kinds: of its coded pictures, such as `"P"` or `"PB"`; empty for codecs that need none.
        packed: whether pictures wait for the next packet, see `PACKED`.
        begins: whether the first packet is a key frame whose picture surely comes out.
    """

    pts: Int[np.ndarray, " n"]
    dts: Int[np.ndarray, " n"]
    pos: list[int | None]
    size: list[int]
    keys: Bool[np.ndarray, " n"]
    shown: Bool[np.ndarray, " n"]
    kinds: list[str]
    packed: bool
    begins: bool

    @classmethod
    def of(cls, packets: Iterable[Any], codec: str, extradata: bytes) -> Self:
        """Read them all."""
        rows: list[tuple[Any, ...]] = []
        kinds: list[str] = []
        told, packed = codec in PICTURE, PACKED.search(extradata) is not None
        begins, repeats = codec != "h264", not packed
        for packet in packets:
            hidden, key = packet.is_discard, packet.is_keyframe
            if not begins and not rows:
                begins = _idr(bytes(packet), extradata)
            if told:
                data = bytes(packet)
                kinds.append(_kinds(codec, data))
                says = PACKED.search(data) is not None
                packed = packed or (says and not rows)
                key = key and (says or not (packed and repeats))
            elif codec == "vp8" and not memoryview(packet)[0] & 0x10:
                hidden = True  # RFC 6386 9.1: only to refer to
            rows.append((packet.pts, packet.dts, packet.pos, packet.size, key, not hidden))
        pts, dts, pos, size, keys, shown = zip(*rows, strict=True) if rows else [()] * 6
        return cls(
            _times(pts),
            _times(dts),
            list(pos),
            list(size),
            np.array(keys, dtype=bool),
            np.array(shown, dtype=bool),
            kinds,
            packed,
            begins and keys[:1] == (True,) and "".join(kinds[:1])[:1] in ("", "I"),
        )

    def __len__(self) -> int:
        return len(self.size)

    @property
    def checksum(self) -> int:
        """Tells two files apart."""
        return zlib.crc32(np.stack([self.size, _times(self.pos), self.pts]).tobytes())

    def find(self, packet: Any) -> int | None:
        """Which one `packet` is; None: none, or several alike lie in that place."""
        if packet.pos is None or packet.pos not in self.pos:
            return None
        first = self.pos.index(packet.pos)
        places = range(first, first + self.pos.count(packet.pos))
        alike = [place for place in places if self.holds(packet, place)]
        return alike[0] if len(alike) == 1 else None

    def holds(self, packet: Any, place: int) -> bool:
        """Whether `packet` is the one at `place`."""
        return (
            place < len(self.size)
            and packet.size == self.size[place]
            and packet.pos == self.pos[place]
        )

    def display_order(
        self, codec: Any, reorders: bool, fields: int
    ) -> Int[np.ndarray, " t"] | None:
        """Places of the packets in the order in which their pictures come out of a decoder.

        Args:
            codec: PyAV's.
            reorders: whether the stream says that it has B-frames.
            fields: FFmpeg's field order; 0 where unknown.

        Returns:
            The order, or None: only decoding tells.
        """
        shown = np.flatnonzero(self.shown)
        if not codec.reorder:
            return shown
        if codec.name in PICTURE:
            order = self._by_kinds()
            return None if order is None else order[self.shown[order]]
        times = self.pts[shown]
        untold = reorders and codec.name not in BY_TIMES
        field = fields > PROGRESSIVE  # or two of them are a frame
        places = np.argsort(times)
        if untold or field or not _rises(times[places]):
            return None
        order = shown[places]
        return order if len(order) == 1 or (order != shown).any() == reorders else None

    def _by_kinds(self) -> Int[np.ndarray, " n"] | None:
        """A reference picture comes out when the next one comes in, a B-picture at once."""
        waiting = np.cumsum([len(kinds) for kinds in self.kinds]) - np.arange(len(self)) - 1
        kinds = "".join(self.kinds)[: len(self)]  # one that still waits at the end is lost
        if waiting.min() < 0 or waiting.max() > self.packed or "?" in kinds:
            return None
        order: list[int] = []
        held: list[int] = []
        for place, kind in enumerate(kinds):
            if kind == "B":
                order.append(place)
            else:
                order += held
                held = [place]
        return np.array(order + held)

    def times(self, order: Int[np.ndarray, " t"]) -> Int[np.ndarray, " t"] | None:
        """When the pictures of `order` are shown, rising; None where the file does not say."""
        times = np.sort(self.pts[order])
        return times if _rises(times) else None


def _kinds(codec: str, data: bytes) -> str:
    """I, P or B (MPEG-4's S counts as P) for every picture of a packet; `?` where it says none."""
    start, found = PICTURE[codec], ""
    place = data.find(start)
    while place >= 0:
        head = data[place + 4 : place + 6]
        if codec != "mpeg4":
            found += "?IPB????"[head[1] >> 3 & 7] if len(head) == 2 else "?"
        elif len(data) - place > EMPTY_VOP:
            found += "IPBP"[head[0] >> 6]
        place = data.find(start, place + 4)
    return found


def _idr(data: bytes, extradata: bytes) -> bool:
    """Whether an H.264 packet holds an IDR picture, whichever way its units are told apart."""
    if extradata[:1] != b"\1":
        return IDR.search(data) is not None
    length, place = (extradata[4] & 3) + 1, 0
    while place + length < len(data):
        if data[place + length] & 31 == 5:
            return True
        place += length + int.from_bytes(data[place : place + length])
    return False


def _rises(times: Int[np.ndarray, " t"]) -> bool:
    """Whether sorted times are all told and no two of them alike."""
    return times[0] != NONE and not (times[1:] == times[:-1]).any()


def _times(told: Sequence[int | None]) -> Int[np.ndarray, " n"]:
    return np.array([NONE if time is None else time for time in told], dtype=np.int64)
