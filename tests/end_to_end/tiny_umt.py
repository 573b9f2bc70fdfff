"""A published file of UMT's second stage, of the weights of a golden case, and a vocabulary."""

from pathlib import Path

import torch
from safetensors.torch import load_file

CASE = Path(__file__).parents[1] / "golden" / "umt" / "s2_rerank.safetensors"
SIZES = "frames=3,image_size=32,num_heads=4,text_heads=3,fusion_layer=2"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cell", "dog", "photo"]


def write_tiny_umt(folder: Path) -> str:
    """Its reference, with sizes that no released model has."""
    state = {
        key.removeprefix("state/"): value
        for key, value in load_file(CASE).items()
        if key.startswith("state/")
    }
    # Released files have the names of the text tower behind `bert.`, and longer position tables.
    renamed = {k.replace("text_encoder.", "text_encoder.bert."): v for k, v in state.items()}
    key = "text_encoder.bert.embeddings.position_embeddings.weight"
    renamed[key] = torch.cat([renamed[key]] * 2)
    renamed["clip_teacher.proj"] = torch.zeros(2, 2)
    torch.save(renamed, folder / "umt.pth")
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *(f"word{i}" for i in range(39))]))
    return f"file:{folder / 'umt.pth'},tokenizer={folder / 'vocab.txt'},{SIZES}"
