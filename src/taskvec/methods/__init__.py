"""Merge methods: one pure function a file, registered under its own name, held to the laws it declares."""

from taskvec.methods._method import MergeMethod as MergeMethod
from taskvec.methods._method import get as get
from taskvec.methods._method import merge_method as merge_method
from taskvec.methods._method import names as names
