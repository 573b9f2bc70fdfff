"""Nearest right spellings for misspelt names and settings."""

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from typing import Any

SYNONYMS = {
    "learning_rate": "lr",
    "blr": "base_lr",
    "base_learning_rate": "base_lr",
    "min_learning_rate": "min_lr",
    "batch": "global_batch_size",
    "batch_size": "global_batch_size",
    "bs": "global_batch_size",
    "per_device_batch_size": "micro_batch_size",
    "accum_iter": "micro_batch_size",
    "gradient_accumulation": "micro_batch_size",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "warmup": "warmup_epochs",
    "wd": "weight_decay",
    "clip_grad": "clip_norm",
    "grad_clip": "clip_norm",
    "num_workers": "workers",
    "resolution": "image_size",
    "img_size": "image_size",
    "input_size": "image_size",
    "val_split": "held_out",
    "holdout": "held_out",
    "hflip": "flip",
    "scale": "crop_scale",
    "ratio": "crop_ratio",
    "data_path": "train",
    "dataset": "train",
    "data_root": "root",
    "data_prefix": "root",
    "prefix": "root",
    "dim": "embed_dim",
    "hidden_size": "embed_dim",
    "width": "embed_dim",
    "layers": "depth",
    "num_layers": "depth",
    "layer": "block",
    "arch": "model",
    "architecture": "model",
    "backbone": "model",
    "checkpoint": "init",
    "drop_path_rate": "drop_path",
    "stochastic_depth": "drop_path",
    "amp": "precision",
    "dtype": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "int8": "precision",
    "mixed_precision": "precision",
    "autocast": "precision",
    "quantize": "precision",
    "load_in_8bit": "precision",
    "masking_ratio": "mask_ratio",
    "norm_pix": "norm_pixels",
    "norm_pix_loss": "norm_pixels",
    "relations": "pairs",
    "random_seed": "seed",
    "grad_checkpointing": "activation_checkpointing",
    "gradient_checkpointing": "activation_checkpointing",
    "eval_every": "evaluate_every",
    "logger": "loggers",
}
"""Names of the same thing in other tools → the last part of ours."""


def nearest(word: str, choices: Collection[str]) -> str | None:
    """The choice spelt most like `word`, or None when none is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, choices: Collection[str]) -> str:
    """`; did you mean 'x'?`, or, when nothing is close, the choices themselves."""
    best = nearest(word, choices)
    if best is not None:
        return f"; did you mean {best!r}?"
    return f"; choose one of: {', '.join(sorted(choices))}"


def nearest_setting(key: str, settings: Collection[str]) -> str | None:
    """The dotted setting that was probably meant by `key`.

    The last part counts first, because people put a right name into a wrong section more often than
    the reverse; whole dotted paths compared letter by letter suggest nonsense.
    """
    section, _, last = key.rpartition(".")
    last = last.lower().replace("-", "_")

    def closeness(setting: str) -> tuple[float, float]:
        theirs, _, name = setting.rpartition(".")
        spelling = max(_alike(last, name), _alike(SYNONYMS.get(last, last), name))
        return spelling, _alike(section, theirs)

    best = max(settings, key=closeness, default=None)
    if best is None or closeness(best)[0] < 0.6:
        return None
    return best


def _alike(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def shown(value: Any) -> str:
    """A value as it would be written."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
