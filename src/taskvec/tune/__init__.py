"""Fine-tuning: regimes behind one interface, one shared loop, ordinary model folders as results."""

from taskvec.callable_module import make_callable
from taskvec.tune.into import tune_into as tune_into
from taskvec.tune.loop import Step as Step
from taskvec.tune.loop import Tuned as Tuned
from taskvec.tune.loop import tune as tune
from taskvec.tune.regime import Regime as Regime
from taskvec.tune.regime import Run as Run
from taskvec.tune.regime import regime_names as regime_names
from taskvec.tune.regime import regime_of as regime_of
from taskvec.tune.regime import trainable_parameters as trainable_parameters
from taskvec.tune.settings import Settings as Settings

make_callable(__name__)
