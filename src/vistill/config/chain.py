"""Sequential distillation: what each stage of a chain is, given the configuration of the whole."""

from pathlib import Path

from vistill.config.schema import RunConfig

_RELEASED_HEADS = {"vit_base": (12, 16), "vit_small": (6, 12), "vit_tiny": (6, 12)}
"""Heads of a TinyMIM student and of the relations in its last block (spec 4.3, released code)."""


def stage_names(config: RunConfig) -> list[str]:
    """Folder names of the stages: `1-vit_base`, `2-vit_small`, ..."""
    return [f"{i}-{name.replace('/', '_')}" for i, name in enumerate(config.chain or (), 1)]


def stage_config(config: RunConfig, stage: int, teacher: str | None) -> RunConfig:
    """The configuration of one stage, counted from 0.

    Args:
        config: of the whole chain; its teacher section is the first stage's.
        stage: which student of `config.chain` learns.
        teacher: for later stages the previous stage's run (`run:PATH`), which is read at its last
            block. None keeps the first teacher.

    Heads that the configuration leaves open are those of the released TinyMIM students: relations
    16 for ViT-B, 12 for ViT-S and ViT-Ti; ViT-Ti pre-trains with 6 heads. For other students the
    relations have the teacher's own heads.
    """
    assert config.chain is not None
    name = config.chain[stage]
    student = config.student.model_copy(update={"model": name})
    method = config.method
    num_heads, relation_heads = _RELEASED_HEADS.get(name, (None, None))
    if student.embed_dim is None and student.num_heads is None:
        student = student.model_copy(update={"num_heads": num_heads})
    if method.name == "tinymim" and student.embed_dim is None and method.relation.heads is None:
        relation = method.relation.model_copy(update={"heads": relation_heads})
        method = method.model_copy(update={"relation": relation})
    update: dict[str, object] = {"chain": None, "student": student, "method": method}
    if config.cache.path is not None:  # every stage has another teacher
        path = str(Path(config.cache.path) / stage_names(config)[stage])
        update["cache"] = config.cache.model_copy(update={"path": path})
    if teacher is not None:
        block = "last" if method.name == "tinymim" else None
        update["teacher"] = config.teacher.model_copy(
            update={"model": teacher, "weights": None, "block": block}
        )
    return config.model_copy(update=update)
