"""The rows that a sceptic asks for beside every paper's."""

from collections.abc import Mapping, Sequence

from scripts.claims.claim import Arm

NOTHING = Arm("no pre-training")
LONGER = Arm("no pre-training, fine-tuned three times as long", tuning=3.0)

SCEPTIC: Mapping[str, Sequence[Arm]] = {
    "pictures": [
        NOTHING,
        LONGER,
        Arm("logit distillation", "logit_kd", teacher="deit with its classifier"),
        Arm("labels alone", "supervised"),
        Arm("the teacher itself", student="deit"),
    ],
    "cifar": [
        NOTHING,
        LONGER,
        Arm("labels alone", "supervised"),
        Arm("the teacher itself", student="56"),
    ],
    "clips": [NOTHING, LONGER],
}
"""By task."""
