"""Hold a merge method to what it declares: for our own tests, and for authors of methods outside this package.

    from taskvec.testing import check_method
    check_method("mine", reference, settings=[{}, {"density": 0.5}])

runs the declared laws and a float64 reference over every named adversarial input, through the public door. The pieces
are public too: `check_law`, `check_reference`, `named`, and Hypothesis strategies in `taskvec.testing.strategies`.

Inputs are *stacks*: a dict tensor name → float32 array (task, *shape). They become task vectors, or checkpoints for
methods on points; the tasks are called "0", "1", …. A method on points that requires a base gets row 0 as its base.
A reference is a function `reference(stacks, **parameters) -> dict name -> float64 array`; its stacks are float64, it
sees all parameters of the method with defaults filled in, those given per task as a tuple, and not `scale`.
"""

from taskvec.testing.adversarial import Stacks as Stacks
from taskvec.testing.adversarial import named as named
from taskvec.testing.contract import check_law as check_law
from taskvec.testing.contract import check_method as check_method
from taskvec.testing.contract import check_reference as check_reference
from taskvec.testing.evaluation import ContractError as ContractError
from taskvec.testing.evaluation import evaluate as evaluate
from taskvec.testing.evaluation import fit as fit
