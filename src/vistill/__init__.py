"""vistill: distil a large pretrained vision model into a small one that fine-tunes better.

Importing the package costs nothing: every public name is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vistill.api import recipes as recipes
    from vistill.api.compare import compare as compare
    from vistill.api.demo import demo as demo
    from vistill.api.evaluate import evaluate as evaluate
    from vistill.api.export import export as export
    from vistill.api.export import load_backbone as load_backbone
    from vistill.api.export import load_classifier as load_classifier
    from vistill.api.inference import embed as embed
    from vistill.api.inference import predict as predict
    from vistill.api.inspect import inspect as inspect
    from vistill.api.inspect import rank_teachers as rank_teachers
    from vistill.api.prepare import prepare as prepare
    from vistill.api.pretrain import pretrain as pretrain
    from vistill.api.report import report as report
    from vistill.api.search import index as index
    from vistill.api.search import search as search

__all__ = [
    "__version__",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "export",
    "index",
    "inspect",
    "load_backbone",
    "load_classifier",
    "predict",
    "prepare",
    "pretrain",
    "rank_teachers",
    "recipes",
    "report",
    "search",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from vistill import api

        return getattr(api, name)
    raise AttributeError(f"module 'vistill' has no attribute {name!r}")
