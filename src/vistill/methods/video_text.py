"""Draws and bookkeeping of UMT's losses of text, over one rank or several (spec umt 10)."""

from typing import NamedTuple, TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vistill.batch import Batch
from vistill.config.umt import PairSection, TextTowerConfig
from vistill.errors import UserError
from vistill.losses.video_text import (
    IGNORED,
    Corrupted,
    Words,
    any_negatives,
    contrast,
    hard_negatives,
    hide_words,
    matching,
    similarity,
    word_loss,
)
from vistill.methods.ranks import Ranks
from vistill.models.joint import trained_joint
from vistill.models.text.bert import (
    BertSizes,
    SplitBert,
    pretrained_bert,
    usual_fusion_layer,
)
from vistill.models.text.video_text import VideoText
from vistill.random import Stream, per_sample_uniform
from vistill.tokens.semantic import exponential

_MASKED, _REPLACED = 0.8, 0.5
_EMBEDDING = 512


def joint_of(config: PairSection, words: Words, vision_width: int, *, guesses: bool) -> VideoText:
    """What reads and joins as the configuration says: trained before, or fresh around a tower.

    Args:
        config: the switches.
        words: of the tokenizer.
        vision_width: channels of the student's tokens.
        guesses: whether a head has to guess hidden words.

    Raises:
        UserError: it cannot be loaded, or sizes or vocabulary do not fit.
    """
    start = config.text.model
    if trained(start):
        joint = trained_joint(start)
        _check_start(joint.text.sizes, config.text, words, vision_width, guesses=guesses)
        own = joint.text_proj.out_features
        if config.embedding not in (None, own):
            raise UserError(_other_start("method.embedding", config.embedding, start, own))
        if not guesses:
            joint.text.guess_no_words()
    else:
        text = text_tower(config.text, words, vision_width, guesses=guesses)
        joint = VideoText(text, config.embedding or _EMBEDDING)
    heat = float(joint.temperature.detach()) if config.temperature is None else config.temperature
    joint.set_temperature(heat, decays=config.decay_temperature)
    return joint.train()


def tower_of(config: TextTowerConfig, words: Words, vision_width: int) -> SplitBert:
    """The tower that reads, alone: trained before, or as `text_tower` makes it.

    Raises:
        UserError: as of `joint_of`.
    """
    start = config.model
    if not trained(start):
        return text_tower(config, words, vision_width)
    tower = trained_joint(start).text
    _check_start(tower.sizes, config, words, vision_width, guesses=False)
    return tower.train()


def trained(start: str | None) -> TypeGuard[str]:
    """Whether `text.model` is of a second stage, and no bare BERT."""
    return start is not None and start.startswith(("run:", "file:"))


def _check_start(
    sizes: BertSizes, config: TextTowerConfig, words: Words, vision_width: int, *, guesses: bool
) -> None:
    start = f"{config.model}"
    if sizes.vision_width != vision_width:
        raise UserError(
            f"method.text.model={start} looks at tokens of {sizes.vision_width} channels, and the "
            f"student's have {vision_width}; take its student, too: student.init={start}"
        )
    if sizes.vocabulary < words.size:
        raise UserError(_too_many_words(words, start, sizes))
    if config.fusion_layer not in (None, sizes.fusion_layer):
        key = "method.text.fusion_layer"
        raise UserError(_other_start(key, config.fusion_layer, start, sizes.fusion_layer))
    if config.max_length > sizes.positions:
        raise UserError(
            f"method.text.max_length={config.max_length} is longer than the {sizes.positions} "
            f"tokens that {start} can read"
        )
    if guesses and not sizes.words:
        raise UserError(f"{start} has no head that guesses words; set method.words_weight=0")


def _other_start(key: str, asked: int | None, start: str, own: int) -> str:
    return f"{key}={asked}, but {start} was trained with {own}; leave it out"


def _too_many_words(words: Words, model: str, sizes: BertSizes) -> str:
    return (
        f"the tokenizer has {words.size} tokens, and method.text.model={model} knows "
        f"{sizes.vocabulary}; leave out method.text.tokenizer"
    )


def text_tower(
    config: TextTowerConfig, words: Words, vision_width: int, *, guesses: bool = True
) -> SplitBert:
    """A BERT as the configuration says, loaded or fresh.

    Raises:
        UserError: it cannot be loaded, or its sizes or vocabulary do not fit.
    """
    if config.model is not None:
        tower = pretrained_bert(config.model, config.fusion_layer, vision_width)
        if tower.sizes.vocabulary < words.size:
            raise UserError(_too_many_words(words, config.model, tower.sizes))
        if not guesses:
            tower.guess_no_words()
    else:
        layers = config.depth
        fusion = config.fusion_layer or usual_fusion_layer(layers)
        if config.embed_dim % config.num_heads:
            raise UserError(
                f"method.text.embed_dim={config.embed_dim} cannot be split into "
                f"method.text.num_heads={config.num_heads}"
            )
        sizes = BertSizes(
            vocabulary=words.size,
            width=config.embed_dim,
            layers=layers,
            fusion_layer=fusion,
            heads=config.num_heads,
            positions=max(512, config.max_length),
            vision_width=vision_width,
            dropout=config.dropout,
            words=guesses,
        )
        tower = SplitBert(sizes)
    if not 1 <= tower.sizes.fusion_layer < tower.sizes.layers:
        raise UserError(
            f"method.text.fusion_layer={tower.sizes.fusion_layer} leaves none of "
            f"{tower.sizes.layers} layers to read text, or none to look at clips"
        )
    return tower


class Pairs(NamedTuple):
    """The rows of this rank, and what the batch of all ranks is like.

    Attributes:
        tokens: of its clips.
        states: of its sentences.
        mask: True where these have a token.
        logits: similarity of all clips (rows) and all sentences over the temperature.
        items: of all rows; equal for one item.
        sentences: of all rows, equal for equal words; None: whatever the words.
    """

    tokens: Float[Tensor, "b n d"]
    states: Float[Tensor, "b l h"]
    mask: Bool[Tensor, "b l"]
    logits: Float[Tensor, "all all"]
    items: Int[Tensor, " all"]
    sentences: Int[Tensor, " all"] | None


def matching_loss(
    joint: VideoText, batch: Batch, pairs: Pairs, config: PairSection, ranks: Ranks
) -> Float[Tensor, ""]:
    """Whether each sentence fits its clip, another clip, and another sentence the clip."""
    mine = slice(ranks.rank * len(batch), (ranks.rank + 1) * len(batch))
    logits, items, sentences = pairs.logits, pairs.items, pairs.sentences
    tokens, states, mask = pairs.tokens, pairs.states, pairs.mask
    if config.negatives_of == "batch":
        tokens, states = (ranks.gather(rows, "full") for rows in (tokens, states))
        mask, rows = ranks.gather(mask), mine
    else:
        logits, items = logits[mine, mine], items[mine]
        sentences = None if sentences is None else sentences[mine]
        rows = slice(None)
    same = items[rows, None] == items[None]
    if sentences is not None:
        same = same | (sentences[rows, None] == sentences[None])
    noise = [
        exponential(per_sample_uniform(batch.seeds, len(items), stream))
        for stream in (Stream.NEGATIVE_CLIPS, Stream.NEGATIVE_SENTENCES)
    ]
    if config.negatives == "hard":
        found = hard_negatives(logits[rows], logits.T[rows], same, *noise)
    else:
        found = any_negatives(same, *noise)
    scores = joint.match(
        torch.cat([pairs.states, pairs.states, states[found.sentences]]),
        torch.cat([pairs.mask, pairs.mask, mask[found.sentences]]),
        torch.cat([pairs.tokens, tokens[found.clips], pairs.tokens]),
    )
    count = len(batch) + 2 * found.known.sum()
    return matching(scores, found.known, ranks.gather(count[None]).sum() / ranks.size)


def pair_terms(
    joint: VideoText,
    batch: Batch,
    tokens: Float[Tensor, "b n d"],
    config: PairSection,
    ranks: Ranks,
    *,
    frames: int | None = None,
) -> dict[str, tuple[float, Tensor]]:
    """The losses of pairs of clips and sentences that weigh anything, each with its weight.

    Args:
        joint: what reads, and joins it to the student.
        batch: holds the inputs `text`, `text_mask`, `item` and `sentence`.
        tokens: of the student, behind its final norm.
        config: the switches.
        ranks: whose rows are the batch.
        frames: pool each of so many by itself; None: all tokens together.
    """
    terms: dict[str, tuple[float, Tensor]] = {}
    temperature = joint.clamp_temperature()
    if not (config.contrast_weight or config.matching_weight):
        return terms
    mask = batch.inputs["text_mask"].bool()
    states, spoken = joint.sentences(batch.inputs["text"], mask)
    logits = similarity(
        ranks.gather(joint.pooled(tokens, frames), config.gather_grad),
        ranks.gather(spoken, config.gather_grad),
        temperature,
    )
    right = config.equal_words == "right"
    items = ranks.gather(batch.inputs["sentence" if right else "item"])
    apart = config.equal_words == "apart"
    sentences = ranks.gather(batch.inputs["sentence"]) if apart else None
    if config.contrast_weight:
        terms["contrast"] = config.contrast_weight, contrast(logits, items, sentences)
    if config.matching_weight:
        pairs = Pairs(tokens, states, mask, logits.detach(), items, sentences)
        loss = matching_loss(joint, batch, pairs, config, ranks)
        terms["matching"] = config.matching_weight, loss
    return terms


def word_term(
    joint: VideoText,
    batch: Batch,
    tokens: Float[Tensor, "b n d"],
    words: Words,
    hidden: float,
    ranks: Ranks,
) -> Float[Tensor, ""]:
    """The loss of words guessed from the rest of their sentence and the clip.

    Args:
        joint, batch, tokens, ranks: as of `pair_terms`.
        words: of the vocabulary.
        hidden: share of the tokens that are asked for.
    """
    text, mask = batch.inputs["text"], batch.inputs["text_mask"].bool()
    corrupted = with_hidden_words(batch.seeds, text, words, hidden)
    read = joint.text.read(corrupted.text, mask)
    scores = joint.text.words(joint.text.fuse(read, mask, tokens))
    asked = (corrupted.labels != IGNORED).sum()
    share = ranks.gather(asked[None]).sum() / ranks.size
    return word_loss(scores, corrupted.labels, share)


def with_hidden_words(
    seeds: Int[Tensor, " b"], text: Int[Tensor, "b l"], words: Words, share: float
) -> Corrupted:
    """Sentences of which `share` of the tokens are asked for; draws by the rows' seeds."""
    length = text.shape[1]
    drawn = per_sample_uniform(seeds, 4 * length, Stream.HIDDEN_WORDS).unflatten(1, (4, length))
    return hide_words(
        text,
        words,
        selected=drawn[:, 0] < share,
        masked=drawn[:, 1] < _MASKED,
        replaced=drawn[:, 2] < _REPLACED,
        others=(drawn[:, 3] * words.size).long(),
    )
