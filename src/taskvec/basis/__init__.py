"""Task vector bases: many tasks from few vectors, and what that costs, decided from one Gram matrix."""

from taskvec.basis._solver import names as names
from taskvec.basis.basis import Basis as Basis
from taskvec.basis.certificates import certificate as certificate
from taskvec.basis.certificates import negation as negation
from taskvec.basis.certificates import transfer as transfer
from taskvec.basis.choice import choose as choose
from taskvec.basis.solve import solve as solve
