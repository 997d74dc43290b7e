"""A suite end to end: fine-tuning, merges, codecs, negation, disentanglement, with everything finished kept."""

from taskvec.bench.protocols import PROTOCOLS as PROTOCOLS
from taskvec.bench.run import Bench as Bench
from taskvec.bench.run import bench as bench
from taskvec.bench.settings import CODECS as CODECS
from taskvec.bench.settings import QUICK as QUICK
from taskvec.bench.settings import BenchSettings as BenchSettings
from taskvec.callable_module import make_callable

make_callable(__name__)
