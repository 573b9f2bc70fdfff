"""Some samples of a source, each whole or one part of it after the other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from vistill.data.names import PackedNames
from vistill.data.source import NamedSource, Source, Stretch
from vistill.data.stamps import Stamps
from vistill.data.video.proof import Proof


class PartSource(NamedSource):
    """Samples of another source, and parts of its videos, without labels.

    Args:
        source: of all samples.
        samples: positions there, `[n]`.
        parts: one per entry of `samples`; None: what the source says.
        stamps: `[n, 2]`, of the samples; they make another content another source.
    """

    def __init__(
        self,
        source: Source,
        samples: Int[np.ndarray, " n"],
        parts: Sequence[Stretch | None],
        stamps: Stamps,
    ) -> None:
        self._source, self._samples, self._parts, self._stamps = source, samples, parts, stamps
        names = PackedNames(
            source.sample_name(i) + ("" if part is None else f" ({part})")
            for i, part in zip(samples.tolist(), parts, strict=True)
        )
        super().__init__(source.name, names, source.media)
        self.decoding = source.decoding

    def read(self, i: int) -> bytes:
        return self._source.read(int(self._samples[i]))

    def place(self, i: int) -> str | bytes:
        return self._source.place(int(self._samples[i]))

    def span(self, i: int) -> Stretch | None:
        return self._parts[i] or self._source.span(int(self._samples[i]))

    def proof(self, i: int) -> Proof | None:
        return self._source.proof(int(self._samples[i]))

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {PackedNames([self._stamps.tobytes().hex()]).digest()}"

    def stamps(self) -> Stamps:
        return self._stamps
