"""Published parameter names to vistill's, for loading golden states."""

from torch import Tensor


def mae_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official MAE names to `TrainedMAE` names."""
    renamed = {}
    for name, tensor in state.items():
        if name == "mask_token":
            renamed["painter.decoder.mask_token"] = tensor
        elif name.startswith("decoder_"):
            renamed[f"painter.decoder.{name.removeprefix('decoder_')}"] = tensor
        else:
            renamed[f"student.{name}"] = tensor
    return renamed


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries under `prefix.`, without it."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
