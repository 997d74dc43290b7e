"""Evaluation: scores with standard errors, normalized accuracy, and the choice of scales on validation data."""

from taskvec.callable_module import make_callable
from taskvec.evaluate.addition import Addition as Addition
from taskvec.evaluate.addition import addition as addition
from taskvec.evaluate.addition import deltas_of as deltas_of
from taskvec.evaluate.affine import Affine as Affine
from taskvec.evaluate.affine import affine as affine
from taskvec.evaluate.compression import Compression as Compression
from taskvec.evaluate.compression import compression as compression
from taskvec.evaluate.compression import own_scores as own_scores
from taskvec.evaluate.disentanglement import Disentanglement as Disentanglement
from taskvec.evaluate.disentanglement import disentanglement as disentanglement
from taskvec.evaluate.negation import Negation as Negation
from taskvec.evaluate.negation import negation as negation
from taskvec.evaluate.patch import resident as resident
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

make_callable(__name__)
