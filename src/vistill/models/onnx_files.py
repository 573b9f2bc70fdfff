"""A model as an ONNX file that takes pixels in [0, 1] and was compared with it."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

from vistill.errors import UserError
from vistill.files import PARTIAL, sync_folder, write_atomic
from vistill.models.quiet import ONNX, quiet

MODEL, DESCRIPTION = "model.onnx", "onnx.json"
FORMAT = "vistill-onnx/1"
_TOLERANCE = 1e-3
_LARGEST = 2**31 - 2**20
"""Bytes that fit into one file; protobuf ends at 2 GiB."""


Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Cheaper:
    """How a file comes to a cheaper type.

    Attributes:
        precision: of its weights and products.
        convert: from a file in fp32 to a new one.
        pixels: on which both are compared; it is told how far they are apart.
    """

    precision: Precision
    convert: Callable[[Path, Path], None]
    pixels: Float[np.ndarray, "b 3 *size"]


def write_onnx(
    model: nn.Module,
    folder: Path,
    *,
    size: Sequence[int],
    free: bool,
    outputs: dict[str, str],
    name: str,
    cheaper: Cheaper | None = None,
    **facts: Any,
) -> list[Path]:
    """Write `model.onnx` with a free batch, and with free sides where the model takes others.

    Args:
        model: from pixels `[B, 3, *size]` in [0, 1] to a tuple of as many tensors as `outputs`.
        folder: made if missing.
        size: height and width, with the frames of a clip in front.
        free: whether to try for free sides.
        outputs: what the outputs are, by name.
        name: of the model, in sentences.
        cheaper: the type of its weights; None: fp32.
        facts: further entries of `onnx.json`.

    Returns:
        The files.

    Raises:
        UserError: torch cannot export the model, the file computes something else, or it cannot be
            had in that type.
    """
    large = sum(t.nbytes for t in model.state_dict().values()) > _LARGEST
    if large and cheaper is not None:
        raise UserError(f"{name} is larger than 2 GiB, and such a file is written in fp32 alone")
    model.eval()
    free = free and _takes_other_sizes(model, size)
    program = _export(model, size, list(outputs), free=True) if free else None
    if program is None or not _is_free(program):
        free, program = False, _export(model, size, list(outputs), free=False)
    if program is None:
        raise UserError(
            f"{name} cannot be had as ONNX: torch {torch.__version__} cannot translate one of its "
            "steps; use --format timm or --format torch"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as made:
        program.save(Path(made) / MODEL, external_data=large)
        sizes = [size, *(_other_sizes(size) if free else ())]
        worst = _difference(model, Path(made) / MODEL, sizes)
        if not worst <= _TOLERANCE:
            if free:  # its sides are free in name alone
                return write_onnx(
                    model,
                    folder,
                    size=size,
                    free=False,
                    outputs=outputs,
                    name=name,
                    cheaper=cheaper,
                    **facts,
                )
            wrong = f"is off by {worst:.1e}" if worst < float("inf") else "does not run"
            raise UserError(
                f"{name} cannot be had as ONNX: the file that torch {torch.__version__} writes "
                f"{wrong}; use --format timm or --format torch"
            )
        if cheaper is not None:
            facts["off_by"] = _convert(Path(made) / MODEL, cheaper, list(outputs), name)
        written = []
        for path in sorted(Path(made).iterdir(), reverse=True):  # the model last
            os.replace(path, folder / path.name)
            written.append(folder / path.name)
    if not large:
        (folder / f"{MODEL}.data").unlink(missing_ok=True)  # of a larger model before
    sides = ["height", "width"] if free else list(size[-2:])
    description = {
        "format": FORMAT,
        "input": {"pixels": ["batch", 3, *size[:-2], *sides], "range": [0, 1]},
        "made_for": list(size),
        "outputs": outputs,
        "precision": "fp32" if cheaper is None else cheaper.precision,
        **facts,
    }
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    sync_folder(folder)
    return [*written, folder / DESCRIPTION]


def _export(model: nn.Module, size: Sequence[int], outputs: list[str], *, free: bool) -> Any:
    """The program, or None where torch cannot make one."""
    axes: dict[int, Any] = {0: Dim("batch")}
    height, width = size[-2:]
    if free:  # of a square it would conclude that the sides are equal
        axes |= {2: Dim.AUTO, 3: Dim.AUTO}
        width += 32 if height != width + 32 else 64
    try:
        # The fused kernel's output has strides that the exporter does not reproduce.
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), quiet(ONNX):
            return torch.onnx.export(
                model,
                (torch.rand(2, 3, *size[:-2], height, width),),
                input_names=["pixels"],
                output_names=outputs,
                dynamic_shapes={"pixels": axes},
                dynamo=True,
                verbose=False,
            )
    except Exception:  # of any of its passes, in terms of graphs
        return None


def _is_free(program: Any) -> bool:
    """Whether the sides of the input are free, which the exporter may have decided against."""
    return all(not isinstance(side, int) for side in program.model.graph.inputs[0].shape[-2:])


def _other_sizes(size: Sequence[int]) -> list[tuple[int, int]]:
    height, width = size
    return [(height + 32, width), (height + 64, width + 32)]


def _takes_other_sizes(model: nn.Module, size: Sequence[int]) -> bool:
    try:
        with torch.no_grad():
            for other in _other_sizes(size):
                model(torch.rand(1, 3, *other))
    except Exception:  # of whatever kind a model of one size raises
        return False
    return True


def _difference(model: nn.Module, file: Path, sizes: list[Any]) -> float:
    """Largest difference between file and model, relative to the largest value of the output."""
    running = session(file)
    generator, worst = torch.Generator().manual_seed(0), 0.0
    for count, size in ((count, size) for size in sizes for count in (1, 3)):
        pixels = torch.rand(count, 3, *size, generator=generator)
        with torch.no_grad():
            expected: tuple[Tensor, ...] = model(pixels)
        try:
            found = running.run(None, {"pixels": pixels.numpy()})
        except Exception:  # of whatever kind the runtime raises
            return float("inf")
        for ours, theirs in zip(expected, found, strict=True):
            off = np.abs(ours.numpy() - theirs).max() / max(float(ours.abs().max()), 1e-12)
            worst = float(np.fmax(worst, off)) if np.isfinite(off) else float("inf")
    return worst


def session(file: Path) -> Any:
    """What runs a file on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a file that does not run is refused in words of our own
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _convert(file: Path, cheaper: Cheaper, outputs: list[str], name: str) -> dict[str, float]:
    """Put the cheaper file in the place of the first; how far every output of theirs is apart,
    relative to its size (root mean squares).

    Raises:
        UserError: it cannot be had, or gives no numbers.
    """
    import onnxruntime

    plain = file.with_name("fp32.onnx")
    os.replace(file, plain)
    told = f"{name} cannot be had as ONNX in {cheaper.precision}"
    try:
        with quiet(ONNX):
            cheaper.convert(plain, file)
        before, after = (
            session(one).run(None, {"pixels": cheaper.pixels}) for one in (plain, file)
        )
    except Exception as error:  # of any pass of the converter, in terms of graphs
        raise UserError(
            f"{told}: onnxruntime {onnxruntime.__version__} cannot convert or run one of its "
            "steps; leave out --precision"
        ) from error
    plain.unlink()
    apart = {}
    for output, first, second in zip(outputs, before, after, strict=True):
        if not np.isfinite(second).all():
            raise UserError(f"{told}: its numbers grow beyond that type; leave out --precision")
        size = float(np.sqrt(np.square(first).mean()))
        apart[output] = float(np.sqrt(np.square(first - second).mean())) / max(size, 1e-12)
    return apart
