"""What reads beside a student, as the configuration says: trained before, loaded or fresh (spec umt
9)."""

from typing import TypeGuard

from vistill.config.umt import PairSection, TextTowerConfig
from vistill.errors import UserError
from vistill.losses.video_text import Words
from vistill.models.joint import trained_joint
from vistill.models.text.bert import (
    BertSizes,
    SplitBert,
    pretrained_bert,
    usual_fusion_layer,
)
from vistill.models.text.video_text import VideoText

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
