"""A library of task vectors of one base: a folder with a manifest and one file a vector (docs/format.md, section 3)."""

from taskvec.store.reports import StoreCheck as StoreCheck
from taskvec.store.reports import StoreSize as StoreSize
from taskvec.store.store import Store as Store
