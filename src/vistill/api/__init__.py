"""The public Python functions: every command is one of them, with the same names and arguments.

Importing this costs little: the functions load torch when they begin to work.
"""

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
from vistill.runs.inference import InferenceResult as InferenceResult
from vistill.runs.results import EvaluateResult as EvaluateResult
from vistill.runs.results import PretrainResult as PretrainResult
from vistill.runs.results import say as say
from vistill.runs.video_index import PrepareResult as PrepareResult
