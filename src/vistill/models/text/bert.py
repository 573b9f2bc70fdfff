"""BERT in two parts: its first layers read a sentence, the others look at tokens of pictures or
clips as well (UMT, section 3.2; spec umt 9). Layers and names are the transformers library's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vistill.errors import UserError, first_line
from vistill.models.quiet import HUB, quiet


@dataclass(frozen=True)
class BertSizes:
    """What a text tower is built from.

    Attributes:
        vocabulary: tokens.
        width: channels H.
        layers: of both parts.
        fusion_layer: how many of them read text alone.
        heads: of every layer.
        positions: longest sentence.
        vision_width: channels D of the tokens that the second part looks at.
        hidden: width inside the feed-forward layers; None: four times H.
        dropout: of everything.
        words: whether a head guesses words.
    """

    vocabulary: int = 30522
    width: int = 768
    layers: int = 12
    fusion_layer: int = 9
    heads: int = 12
    positions: int = 512
    vision_width: int = 768
    hidden: int | None = None
    dropout: float = 0.1
    words: bool = True


class SplitBert(nn.Module):
    """See `BertSizes`; weights N(0, 0.02²) until others are loaded."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        if find_spec("transformers") is None:
            raise UserError("text towers need an extra: pip install 'vistill[teachers]'")
        from transformers import BertConfig
        from transformers.models.bert import modeling_bert as bert

        self.sizes = sizes

        def config(crossing: bool) -> Any:
            found = BertConfig(
                vocab_size=sizes.vocabulary,
                hidden_size=sizes.width,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.hidden or 4 * sizes.width,
                max_position_embeddings=sizes.positions,
                hidden_dropout_prob=sizes.dropout,
                attention_probs_dropout_prob=sizes.dropout,
                is_decoder=crossing,
                add_cross_attention=crossing,
            )
            found._attn_implementation = "sdpa"
            return found

        reading, looking = config(False), config(True)
        self.embeddings = bert.BertEmbeddings(reading)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            bert.BertLayer(looking if i >= sizes.fusion_layer else reading)
            for i in range(sizes.layers)
        )
        if sizes.words:
            self.cls = bert.BertOnlyMLMHead(reading)
        for layer in self._layers[sizes.fusion_layer :]:
            layer.attention.self.is_causal = False  # decoders of the library write from the left
            for name in ("key", "value"):
                setattr(layer.crossattention.self, name, nn.Linear(sizes.vision_width, sizes.width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        if sizes.words:
            head: Any = self.cls.predictions
            head.decoder.weight = self.embeddings.word_embeddings.weight
            head.decoder.bias = head.bias

    def guess_no_words(self) -> None:
        """Let go of the head that guesses words, where there is one."""
        if self.sizes.words:
            self.sizes = replace(self.sizes, words=False)
            del self.cls

    @property
    def _layers(self) -> list[Any]:
        return list(self.encoder.layer)  # type: ignore[arg-type]

    @property
    def looking(self) -> list[Any]:
        """The layers of the second part."""
        return self._layers[self.sizes.fusion_layer :]

    def read(self, text: Int[Tensor, "b l"], mask: Bool[Tensor, "b l"]) -> Float[Tensor, "b l h"]:
        """Token states of sentences behind the first part.

        Args:
            text: token ids.
            mask: True where there is a token.
        """
        x = self.embeddings(text)
        bias = text_bias(mask, x.dtype)
        for layer in self._layers[: self.sizes.fusion_layer]:
            x = layer(x, bias)
        return x

    def fuse(
        self,
        states: Float[Tensor, "b l h"],
        mask: Bool[Tensor, "b l"],
        vision: Float[Tensor, "b n d"],
        vision_mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b l h"]:
        """Token states behind the second part, which looks at `vision`."""
        return self._looked(states, text_bias(mask, states.dtype), vision, vision_mask)

    def write(
        self,
        text: Int[Tensor, "b l"],
        mask: Bool[Tensor, "b l"],
        seen: Float[Tensor, "b n d"],
        seen_mask: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b l h"]:
        """Token states of the second part alone, of which each knows the tokens before it."""
        x = self.embeddings(text)
        before = torch.ones(text.shape[1], text.shape[1], dtype=torch.bool, device=text.device)
        bias = text_bias(mask[:, None] & before.tril(), x.dtype)
        return self._looked(x, bias, seen, seen_mask)

    def _looked(
        self,
        states: Float[Tensor, "b l h"],
        bias: Float[Tensor, "b 1 q l"],
        seen: Float[Tensor, "b n d"],
        seen_mask: Bool[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b l h"]:
        hidden = None
        if seen_mask is not None:
            lowest = torch.finfo(states.dtype).min
            hidden = ((1.0 - seen_mask.to(states.dtype)) * lowest)[:, None, None]
        for layer in self.looking:
            states = layer(states, bias, encoder_hidden_states=seen, encoder_attention_mask=hidden)
        return states

    def words(self, states: Float[Tensor, "b l h"]) -> Float[Tensor, "b l w"]:
        """Scores of every word of the vocabulary."""
        return self.cls(states)


def text_bias(mask: Bool[Tensor, "b *q l"], dtype: torch.dtype) -> Float[Tensor, "b 1 q l"]:
    """What is added to the attention of sentences: nothing at tokens, -10000 elsewhere.

    Args:
        mask: True where there is a token, for all queries or for each by itself.
    """
    bias = (1.0 - mask.to(dtype)) * -10000.0
    return bias[:, None, None] if mask.dim() == 2 else bias[:, None]


def usual_fusion_layer(layers: int) -> int:
    """How many of a BERT's layers read text alone: three quarters, of BERT-large's 24 all but 5."""
    return 19 if layers == 24 else layers * 3 // 4


def own_bert_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A BERT's weights under the names of `SplitBert`; what only it has (a pooler) is left out."""
    renamed = {}
    for name, value in state.items():
        inner = name.removeprefix("bert.")
        inner = inner.replace("LayerNorm.gamma", "LayerNorm.weight")
        inner = inner.replace("LayerNorm.beta", "LayerNorm.bias")
        if inner.startswith(("embeddings.", "encoder.", "cls.predictions.")) and not inner.endswith(
            ("position_ids", "token_type_ids")
        ):
            renamed[inner] = value
    return renamed


def pretrained_bert(name: str, fusion_layer: int | None, vision_width: int) -> SplitBert:
    """A BERT of a folder or of the hub, split; what looks at pictures starts anew.

    Args:
        name: such as `bert-base-uncased`, or a folder.
        fusion_layer: layers that read text alone; None: three quarters, or all but 5 of 24.
        vision_width: see `BertSizes`.

    Raises:
        UserError: it cannot be loaded, or is no BERT.
    """
    if find_spec("transformers") is None:
        raise UserError("text towers need an extra: pip install 'vistill[teachers]'")
    from transformers import BertForMaskedLM

    kind: Any = BertForMaskedLM
    try:
        with quiet(HUB):
            model = kind.from_pretrained(name, use_safetensors=True, dtype=torch.float32)
    except Exception as error:
        raise UserError(f"text.model={name} cannot be loaded: {first_line(error)}") from error
    config = model.config
    layers = config.num_hidden_layers
    if fusion_layer is None:
        fusion_layer = usual_fusion_layer(layers)
    sizes = BertSizes(
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        layers=layers,
        fusion_layer=fusion_layer,
        heads=config.num_attention_heads,
        positions=config.max_position_embeddings,
        vision_width=vision_width,
        hidden=config.intermediate_size,
        dropout=config.hidden_dropout_prob,
    )
    split = SplitBert(sizes)
    result = split.load_state_dict(own_bert_names(model.state_dict()), strict=False)
    missing = [key for key in result.missing_keys if "crossattention" not in key]
    if missing or result.unexpected_keys:
        odd = [*missing, *result.unexpected_keys]
        raise UserError(f"text.model={name} is no BERT that vistill can split: {odd[0]} differs")
    return split
