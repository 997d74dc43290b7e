"""Packages that share their name with their one verb: `taskvec.tune` is a package, and `taskvec.tune(...)` works."""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """A module whose call is the call of the function that has the module's name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def make_callable(module: str) -> None:
    """Makes the module `package.verb` callable as its function `verb`.

    Importing a subpackage binds it over a function of the same name in its parent; this keeps both meanings.
    """
    sys.modules[module].__class__ = _CallableModule
