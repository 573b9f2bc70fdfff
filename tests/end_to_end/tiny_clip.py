"""A CLIP of two small towers with random weights, as the transformers library saves it."""

from pathlib import Path

import torch

WORDS = ["<pad>", "<unk>", "<s>", "a", "red", "blue", "cell", "dog", "photo", "of", "</s>"]


def write_tiny_clip(folder: Path) -> Path:
    """Weights, configuration and a tokenizer of eleven words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    start, end = WORDS.index("<s>"), WORDS.index("</s>")
    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"intermediate_size": 64, "projection_dim": 16}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 0}
    text |= {"bos_token_id": start, "eos_token_id": end}
    vision = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=small | text, vision_config=small | vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder
