"""An open video file, through PyAV: its packets by their place in the file, and the pictures that a
decoder makes of them.

No jump is taken on trust: every packet after it has to be the one that lies there. One decoder
thread: loader processes are what runs in parallel.
"""

import io
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from jaxtyping import Int

from vistill.data.broken import BrokenImage, unreadable
from vistill.data.processes import beat
from vistill.data.video.packets import NONE, Packets
from vistill.errors import Failure

SKIPS_EXACTLY = ("h264", "hevc")
"""Codecs whose decoders are faster and still exact when they skip non-reference frames."""
END = -1
"""The place of what a decoder does after the last packet."""
KNOWS_ITS_START = "h264"
"""Its decoder waits for a picture to begin with; others make up grey ones before a key frame."""


class BrokenVideo(BrokenImage):
    """This one video cannot be used; the text says why."""


class Elsewhere(Exception):
    """A jump led to other packets than those of the key frame."""


class VideoFile:
    """The video stream of a file.

    Args:
        source: path, or the file's bytes.

    Attributes:
        codec: name of the decoder.
        packets: all of them.
        refused: places of the packets so far that the decoder refused.
        complained: places of those at which it reported an error, while `listening`.
        torn: packets so far in front of which the container did.

    Raises:
        BrokenVideo: no video in it.
    """

    def __init__(self, source: bytes | str) -> None:
        if source == b"":
            raise BrokenVideo("the file is empty")
        if isinstance(source, str) and os.path.exists(source) and not os.path.isfile(source):
            raise BrokenVideo("is no regular file")  # FFmpeg would wait for a named pipe for ever
        self._source = source
        self.refused: list[int] = []
        self.complained: list[int] = []
        self.torn = 0
        self._complaints: list[Any] = []
        self._heard = 0
        self._open()
        self._fresh = False
        self.codec: str = self.context.name
        try:
            extradata = self.context.extradata or b""
            self.packets = Packets.of(self._demuxed(), self.codec, extradata)
            if not self.packets.shown.any():
                raise BrokenVideo("no frame in it")
        except BaseException:
            self.close()
            raise
        knows = self.codec == KNOWS_ITS_START or self.packets.begins
        self._makes_up = not knows and bool(self.packets.kinds or self.packets.keys.any())

    def close(self) -> None:
        """Give file and decoder back."""
        self._container.close()

    def told_order(self) -> Int[np.ndarray, " t"] | None:
        """Places of the packets as their pictures follow one another, from the first one that can
        be decoded; None: only decoding all of it tells."""
        context = self.context
        fields = getattr(context, "field_order", 0)  # PyAV 18
        order = self.packets.display_order(context.codec, context.has_b_frames, fields)
        if order is None or (order[0] == 0 and self.packets.begins):
            return order
        first = next((place for place, _ in self.pictures()), None)
        found = np.flatnonzero(order == first)
        return order[found[0] :] if len(found) and self.packets.keys[first] else None

    def pictures(
        self, key: int | None = None, wanted: Collection[int] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """What the decoder gives out, as PyAV's frames, and the place of the packet of each.

        Args:
            key: place of the key frame to begin with; None: the start.
            wanted: places; other frames may be left out where nothing refers to them.

        Raises:
            Elsewhere: the file's seeking does not lead to the key frame.
        """
        context = self.context if key is not None or self._fresh else self._rewound()
        skips = wanted is not None and self.codec in SKIPS_EXACTLY
        begun, made_up = False, key is None and self._makes_up
        for place, packet in self._from_start() if key is None else self._jump(key):
            if skips:
                needed = not begun or place in (wanted or ())
                context.skip_frame = "DEFAULT" if needed else "NONREF"
                begun = True
            packet.pts = place  # decoders hand it on, whatever time it stood for
            for frame in self._decoded(packet):
                made_up = made_up and not frame.key_frame
                if not made_up:
                    yield frame.pts, frame
        for frame in self._decoded(None):
            yield frame.pts, frame

    def _open(self) -> None:
        source = io.BytesIO(self._source) if isinstance(self._source, bytes) else self._source
        try:
            self._container: InputContainer = av.open(source, "r", metadata_errors="ignore")
        except (FFmpegError, ValueError) as error:
            if isinstance(error, FFmpegError) and isinstance(self._source, str):
                told = unreadable(self._source, error)
                if isinstance(told, Failure):
                    raise told from error
            raise BrokenVideo(_reason(error)) from error
        streams = self._container.streams
        best = streams.best("video")
        usable = [stream for stream in streams.video if not _unusable(stream)]
        if not usable:
            kinds = sorted({_unusable(stream) or stream.type for stream in streams})
            self._container.close()
            raise BrokenVideo(f"no video in it{', only ' + ' and '.join(kinds) if kinds else ''}")
        self.stream: Any = best if best in usable else usable[0]
        self.context: Any = self.stream.codec_context
        self.context.thread_count = 1
        self._fresh = True
        self._heard = len(self._complaints)  # opening decodes a little, of whatever comes first

    def _rewound(self) -> Any:
        self._container.close()
        self._open()
        return self.context

    def _demuxed(self) -> Iterator[Any]:
        """Packets up to the end, or up to where the file is too damaged to go on."""
        try:
            for packet in self._container.demux(self.stream):
                beat()
                self.torn += self._new_complaints()
                if packet.size:
                    yield packet
        # PyAV meets a stream that turns up late, in damaged bytes say, with an IndexError.
        except (FFmpegError, IndexError):
            return

    def _from_start(self) -> Iterator[tuple[int, Any]]:
        """All packets with their places."""
        self._fresh = False
        yield from enumerate(self._demuxed())

    def _jump(self, key: int) -> Iterator[tuple[int, Any]]:
        """The packets from a key frame on, that at place `key` or one before it."""
        for told in (self.packets.pts[key], self.packets.dts[key]):  # some seek by the one
            packets = self._after_seek(int(told))
            packet = next(packets, None)
            place = None if packet is None else self.packets.find(packet)
            if place is not None and place <= key:
                break
        else:
            raise Elsewhere
        begun = False
        while packet is not None:
            if not self.packets.holds(packet, place):
                raise Elsewhere
            begun = begun or bool(self.packets.keys[place])
            if begun:
                yield place, packet
            packet, place = next(packets, None), place + 1

    def _after_seek(self, time: int) -> Iterator[Any]:
        self._fresh = False
        if time == NONE:
            return
        try:
            self._container.seek(time, stream=self.stream, backward=True)
        except FFmpegError:
            return
        yield from self._demuxed()

    def _decoded(self, packet: Any) -> list[Any]:
        """What the decoder gives for a packet: nothing where its bytes are damaged."""
        try:
            return self.context.decode(packet)
        except FFmpegError:
            self.refused.append(END if packet is None else packet.pts)
            return []
        finally:
            if self._new_complaints():
                self.complained.append(END if packet is None else packet.pts)

    def _new_complaints(self) -> bool:
        before, self._heard = self._heard, len(self._complaints)
        return self._heard > before

    @property
    def told_seconds(self) -> float:
        """Duration that the header tells; 0 where it tells none."""
        return float(self._container.duration or 0) / av.time_base

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count the packets at which FFmpeg reports an error in its log: at many damages that is
        all it does, of HEVC and in Matroska for instance."""
        before = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        try:
            with av.logging.Capture() as self._complaints:
                yield
        finally:
            self._complaints, self._heard = [], 0
            av.logging.set_level(before[0])
            av.logging.set_skip_repeated(before[1])


def _unusable(stream: Any) -> str | None:
    """What a video stream is that is no clip, or None."""
    if stream.type != "video":
        return None
    if stream.disposition & Disposition.attached_pic:
        return "a cover picture"
    return "video of an unknown codec" if stream.codec_context is None else None


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidDataError):
        return "damaged or no video"
    return f"cannot be opened: {getattr(error, 'strerror', None) or error}"
