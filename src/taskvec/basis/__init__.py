"""Task vector bases: many tasks from few vectors, and what that costs, decided from one Gram matrix."""

from taskvec.basis.certificates import Certificate as Certificate
from taskvec.basis.certificates import certificate as certificate
from taskvec.basis.fit import Basis as Basis
