"""What the vectors gain by the part of the model that is not linear in them."""

from __future__ import annotations

from taskvec import evaluate
from taskvec.bench.given import Given
from taskvec.bench.singles import single
from taskvec.bench.work import Plain
from taskvec.errors import ParameterError


def nonlinear_advantage(given: Given) -> Plain:
    """(accuracy − accuracy to first order) / (1 − 1/C) of each task from its own vector (arXiv:2305.12827).

    Raises:
        ParameterError: the vectors' own regime is linear.
    """
    work = given.work
    if work.linear:
        raise ParameterError(f"vectors of the regime '{work.settings.regime}' have no other accuracy than this one.")
    linear = single(work, given.tuned, "test", posthoc=True)
    classes = {task.name: len(task.classes) for task in work.suite.tasks}
    return evaluate.nonlinear_advantage(given.test, linear, classes).plain()
