"""What a device computes in: what it has, what is fast on it, what it is refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from vistill.errors import UserError

Plain = Literal["fp32", "bf16", "fp16"]
Setting = Literal["auto", "fp32", "bf16", "fp16"]


def computes(device: torch.device, precision: str) -> bool:
    """Whether a device has instructions for `precision`. A CPU without those of bf16 needs
    several times as long for it as for fp32; fp16 is dearer than bf16 even where it has them."""
    if device.type == "cuda":
        return precision != "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return precision == "fp32"


def recommended(device: torch.device) -> Literal["fp32", "bf16"]:
    """What `train.precision=auto` stands for: bf16 on a GPU that has it and on a CPU with tiles for
    matrices (AMX), where it is measured to be three times as fast as fp32. With vector
    instructions alone, a CPU was measured to be slower in it (benchmarks/results/precision.md)."""
    if device.type == "cuda":
        return "bf16" if computes(device, "bf16") else "fp32"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def plain(precision: Setting, device: torch.device) -> Plain:
    """What a setting stands for on a device."""
    return recommended(device) if precision == "auto" else precision


def require_precision(precision: str, kind: Literal["cpu", "cuda"], setting: str) -> None:
    """Raise a UserError for what the kind of device is refused; `setting` is where it was
    chosen."""
    if kind == "cpu" and precision == "fp16":
        cheap = "bf16" if computes(torch.device("cpu"), "bf16") else "fp32"
        raise UserError(f"{setting}=fp16 is for CUDA devices; a CPU takes {cheap}")
    if kind == "cuda" and precision == "int8":
        cheap = "bf16" if computes(torch.device("cuda"), "bf16") else "fp16"
        raise UserError(f"{setting}=int8 is for CPUs; a GPU takes {cheap}")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Where `allowed`, let CUDA take TF32 for what stays in fp32."""
    before = torch.get_float32_matmul_precision()
    if allowed and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if allowed and torch.cuda.is_available():
            torch.set_float32_matmul_precision(before)
