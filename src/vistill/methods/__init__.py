"""One file a method; `build_method` finds it by name."""

from typing import Protocol

from vistill.errors import UserError
from vistill.methods.amd import AMD
from vistill.methods.base import Method
from vistill.methods.feature_distillation import FeatureDistillation
from vistill.methods.ingredients import Ingredients
from vistill.methods.kdep import KDEP
from vistill.methods.logit_kd import LogitKD
from vistill.methods.mae import MAE
from vistill.methods.relation_kd import RelationKD
from vistill.methods.supervised import Supervised
from vistill.methods.tinymim import TinyMIM
from vistill.methods.umt import UMT
from vistill.methods.umt_multimodal import UMTMultimodal
from vistill.methods.umt_questions import UMTQuestions
from vistill.methods.umt_retrieval import UMTRetrieval
from vistill.methods.videomae import VideoMAE


class Buildable(Protocol):
    """A class that makes a method of ingredients."""

    def build(self, given: Ingredients) -> Method:
        """The method, or a UserError where student, teacher and settings do not fit together."""


METHODS: dict[str, Buildable] = {
    "amd": AMD,
    "feature_distillation": FeatureDistillation,
    "kdep": KDEP,
    "logit_kd": LogitKD,
    "mae": MAE,
    "relation_kd": RelationKD,
    "supervised": Supervised,
    "tinymim": TinyMIM,
    "umt": UMT,
    "umt_multimodal": UMTMultimodal,
    "umt_questions": UMTQuestions,
    "umt_retrieval": UMTRetrieval,
    "videomae": VideoMAE,
}


def build_method(given: Ingredients) -> Method:
    """The method `given.method` around a student and, where it has one, a teacher.

    Raises:
        UserError: method, student and teacher do not fit together, or a setting has no use.
    """
    if given.method not in METHODS:
        raise UserError(f"unknown method {given.method!r}; there are {', '.join(METHODS)}")
    method = METHODS[given.method].build(given)
    given.check_all_used()
    return method
