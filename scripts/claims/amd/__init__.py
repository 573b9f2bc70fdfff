"""AMD (arXiv 2311.03149): a VideoMAE that sees more of a clip teaches a narrower one."""

from typing import Any

from scripts.claims.claim import Arm

DECODER = {"embed_dim": 64, "depth": 2, "num_heads": 2}
TEACHER = Arm("its teacher", "videomae", {"method.decoder": DECODER, "method.mask_ratio": 0.75},
              student="wide", epochs=2.0)  # fmt: skip


def taught(name: str, **settings: Any) -> Arm:
    """An arm of AMD; settings with `__` for dots."""
    usual = {"method.reconstruction.decoder": DECODER, "method.student_mask_ratio": 0.75,
             "method.teacher_mask_ratio": 0.5}  # fmt: skip
    said = {key.replace("__", "."): value for key, value in settings.items()}
    return Arm(name, "amd", usual | said, teacher=TEACHER)
