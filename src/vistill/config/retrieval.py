"""Settings of the evaluations of models that read: retrieval and questions (spec umt 11)."""

from typing import Literal

from pydantic import Field

from vistill.config.section import Count, Section


class RetrievalConfig(Section):
    """Pictures or clips and their captions find each other; nothing is learned."""

    captions: Literal["each", "joined"] = Field(default="each")
    """`each` caption is a query of its own, of which any finds its picture or clip; `joined` by
    spaces they are one paragraph (DiDeMo, ActivityNet)."""
    rerank: Count = Field(default=128)
    """The matching head, where the model has one, looks at so many of the most similar."""


class AnsweringConfig(Section):
    """Questions about pictures or clips, of which the answer is chosen from a list."""

    answers: str | None = Field(default=None)
    """The list: a text file, an answer a line, or a JSON list; default: all answers that were
    trained on."""
    top: Count = Field(default=128)
    """So many that begin most likely are read to their end."""
