"""UMT's names, for giving a trained student back to UMT's own code (spec umt 12)."""

import math

from torch import Tensor

from vistill.errors import UserError
from vistill.models.files.videomae import published_names, require_plain, umt_grid
from vistill.models.vit import VisionTransformer


def published_umt_encoder(vit: VisionTransformer) -> dict[str, Tensor]:
    """The weights under the names of a stage-1 checkpoint, which holds no table but a learned one.

    Raises:
        UserError: the model is none of UMT's kind.
    """
    require_plain(vit, "UMT", ("sincos", "learned"))
    state = published_names({f"student.{name}": value for name, value in vit.state_dict().items()})
    if vit.position == "learned":
        assert vit.pos_embed is not None
        state["encoder.pos_embed"] = vit.pos_embed
    return state


def classifier_table(vit: VisionTransformer) -> dict[str, Tensor]:
    """The `pos_embed` of a fine-tuned classifier, which it has for other clips than those of the
    pre-training.

    Raises:
        UserError: the clips have as many tokens, and the table is another one.
    """
    assert vit.pos_embed is not None
    if vit.num_patches != math.prod(umt_grid(vit.patch_size)):
        return {"pos_embed": vit.pos_embed}
    if vit.position == "learned" or vit.table_grid not in (None, (vit.slots, *vit.grid)):
        raise UserError(
            f"UMT's files hold no table of positions for {vit.num_patches} tokens, and this "
            "classifier has one of its own; use --format torch"
        )
    return {}
