"""Evaluation: scores with standard errors, normalized accuracy, and the choice of scales on validation data."""

from taskvec.callable_module import make_callable
from taskvec.evaluate.addition import Addition as Addition
from taskvec.evaluate.addition import addition as addition
from taskvec.evaluate.affine import Affine as Affine
from taskvec.evaluate.affine import affine as affine
from taskvec.evaluate.compression import Compression as Compression
from taskvec.evaluate.compression import compression as compression
from taskvec.evaluate.compression import own_scores as own_scores
from taskvec.evaluate.disentanglement import Disentanglement as Disentanglement
from taskvec.evaluate.disentanglement import disentanglement as disentanglement
from taskvec.evaluate.kernel_regression import Regression as Regression
from taskvec.evaluate.kernel_regression import kernel_reference as kernel_reference
from taskvec.evaluate.kernel_regression import kernel_regression as kernel_regression
from taskvec.evaluate.line import Line as Line
from taskvec.evaluate.line import line as line
from taskvec.evaluate.localization import Localization as Localization
from taskvec.evaluate.localization import local_energy as local_energy
from taskvec.evaluate.localization import localization as localization
from taskvec.evaluate.localization import representing as representing
from taskvec.evaluate.negation import Negation as Negation
from taskvec.evaluate.negation import negation as negation
from taskvec.evaluate.ntk import Kernel as Kernel
from taskvec.evaluate.ntk import kernel_of as kernel_of
from taskvec.evaluate.objective import objective_of as objective_of
from taskvec.evaluate.patch import deltas_of as deltas_of
from taskvec.evaluate.patch import resident as resident
from taskvec.evaluate.record import Record as Record
from taskvec.evaluate.scores import Score as Score
from taskvec.evaluate.scores import Scores as Scores
from taskvec.evaluate.scores import normalized as normalized
from taskvec.evaluate.scoring import Prepared as Prepared
from taskvec.evaluate.scoring import evaluate as evaluate
from taskvec.evaluate.scoring import prepare as prepare
from taskvec.evaluate.scoring import score as score
from taskvec.evaluate.search import ScaleRow as ScaleRow
from taskvec.evaluate.search import ScaleSearch as ScaleSearch
from taskvec.evaluate.search import search_negation as search_negation
from taskvec.evaluate.search import search_scale as search_scale
from taskvec.evaluate.selection import choose_best as choose_best
from taskvec.evaluate.selection import choose_negation as choose_negation
from taskvec.evaluate.smoothness import Smoothness as Smoothness
from taskvec.evaluate.smoothness import along_segment as along_segment
from taskvec.evaluate.smoothness import largest_curvature as largest_curvature
from taskvec.evaluate.smoothness import smoothness as smoothness

make_callable(__name__)
