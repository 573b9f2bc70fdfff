"""What one full decode of a video proves about reaching its frames."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Int32


@dataclass(frozen=True, eq=False)
class Proof:
    """Of a video whose packets alone do not tell how its frames are reached.

    Attributes:
        packets: checksum of the packets it was made of.
        order: places of the packets in the order in which the decoder gives their pictures out.
        entries: places of the key frames from which decoding gave the same pictures as from the
            start.
    """

    packets: int
    order: Int32[np.ndarray, " n"]
    entries: Int32[np.ndarray, " k"]

    def row(self) -> dict[str, Any]:
        """For a row of the index."""
        order, entries = self.order.tolist(), self.entries.tolist()
        return {"packets": self.packets, "order": order, "entries": entries}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self:
        """From a row of the index."""
        order, entries = (np.array(row[name], dtype=np.int32) for name in ("order", "entries"))
        return cls(row["packets"], order, entries)
