"""What can be said of task vectors without data: one analysis a file, each a pure function with declared tables."""

from taskvec.analyze._analysis import analysis as analysis
from taskvec.analyze._analysis import get as get
from taskvec.analyze._analysis import names as names
from taskvec.analyze._result import Analysis as Analysis
from taskvec.analyze._run import analyze as analyze
from taskvec.callable_module import make_callable

make_callable(__name__)
