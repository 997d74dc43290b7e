"""Where a tensor stands in a model, as far as its name says; used to show tables, never to compute them."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def depth_of(name: str) -> int | None:
    """The first part of the name that is a number: the index of the layer. None where there is none."""
    found = _NUMBER.search(name)
    return int(found[0]) if found else None


def kind_of(name: str) -> str:
    """The name with `*` for the index of the layer: what the tensor is in every layer."""
    return _NUMBER.sub("*", name, count=1)
