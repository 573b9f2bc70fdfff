"""MAE's names, for giving a trained autoencoder back to MAE's own code (spec amd 12)."""

from torch import Tensor

from vistill.errors import UserError
from vistill.models.vit import VisionTransformer


def published_mae_encoder(vit: VisionTransformer) -> dict[str, Tensor]:
    """The weights under the names of a MAE checkpoint, which are vistill's own.

    Raises:
        UserError: the model is none of MAE's kind.
    """
    plain = vit.position == "sincos" and vit.qkv_bias == "all" and vit.layer_scale is None
    plain = plain and vit.qk_scale is None
    if vit.tubelet_size is not None or vit.num_prefix_tokens != 1 or not plain:
        raise UserError(
            "MAE's files hold models of pictures with a class token, a fixed table, all biases, "
            "no layer scales and the usual scale of the attention"
        )
    return dict(vit.state_dict())


def published_mae_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of `TrainedMAE` under the names of a full MAE checkpoint.

    Of other trained modules, such as AMD's of pictures, the parts that MAE has.
    """
    renamed = {}
    for name, value in state.items():
        if name.startswith("student."):
            renamed[name.removeprefix("student.")] = value
        elif name == "painter.decoder.mask_token":
            renamed["mask_token"] = value
        elif name.startswith("painter.decoder."):
            renamed[f"decoder_{name.removeprefix('painter.decoder.')}"] = value
    return renamed
