"""A tiny student learns more by distillation than by MAE."""

from scripts.claims.claim import Arm, Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="main results",
    says="distillation gives a tiny student more than MAE",
    task="pictures",
    arms=(
        taught("relations"),
        Arm(
            "MAE",
            "mae",
            {"method.decoder": {"embed_dim": 64, "depth": 2, "num_heads": 2}},
            epochs=2.0,
        ),
    ),
    refuted="MAE, with twice the epochs, above distillation",
)
