"""KDEP (arXiv 2203.05180): a real ResNet-56 of 64 channels teaches a ResNet-8 of 32."""

from typing import Any

from scripts.claims.claim import Arm


def taught(name: str, *, teacher: str = "56", share: float = 1.0, epochs: float = 1.0,
           **settings: Any) -> Arm:  # fmt: skip
    """An arm of KDEP; settings with `__` for dots."""
    said = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name, "kdep", said, teacher=teacher, share=share, epochs=epochs)
