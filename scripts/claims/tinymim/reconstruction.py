"""Reconstruction beside distillation adds nothing."""

from scripts.claims.claim import Claim
from scripts.claims.tinymim import taught

CLAIM = Claim(
    paper="TinyMIM",
    place="study of the input",
    says="reconstruction beside distillation adds nothing",
    task="pictures",
    kind="no gain",
    arms=(
        taught(
            "with reconstruction",
            method__input="masked",
            method__aux_mim={
                "weight": 1.0,
                "decoder": {"embed_dim": 64, "depth": 2, "num_heads": 2},
            },
        ),
        taught("masked input", method__input="masked"),
    ),
    refuted="reconstruction adds a point or more",
)
