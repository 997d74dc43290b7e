"""Transforms: several task vectors become as many others, before they are merged, stored or compared."""

from taskvec.transforms._transform import Transform as Transform
from taskvec.transforms._transform import get as get
from taskvec.transforms._transform import names as names
from taskvec.transforms._transform import vector_transform as vector_transform
