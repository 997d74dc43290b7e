"""Hiding the labels' own names in the texts, so that a classifier has to read what is left."""

import re
from collections.abc import Iterable

MASK = "…"
"""What stands where a name was."""


def name_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Pattern that finds any of `names`, in any spelling, and the whole dotted path around it.

    A name's parts may be joined by nothing, spaces, underscores, hyphens or dots (`linear_model`, `Linear Model`,
    `LinearModel`), in any case, in the plural; `scipy.linalg.solve` is hidden whole when `linalg` or `scipy` is.
    Names inside longer words (`fft` in `fftshift`) are other names and stay.

    Raises:
        ValueError: there are no names.
    """
    spellings = sorted({r"[\s_.\-]*".join(map(re.escape, _parts(name))) for name in names}, key=len, reverse=True)
    if not spellings:
        raise ValueError("no names to hide")
    head, tail = r"(?<![^\W_])(?:\w+\.)*_*", r"(?:e?s)?_*(?:\.\w+)*(?![^\W_])"
    return re.compile(head + "(?:" + "|".join(spellings) + ")" + tail, re.IGNORECASE)


def mask_names(text: str, pattern: re.Pattern[str]) -> str:
    """`text` with every match replaced by the mask; neighboring masks become one."""
    return re.sub(rf"{MASK}(?:\s+{MASK})+", MASK, pattern.sub(MASK, text))


def _parts(name: str) -> list[str]:
    return re.findall(r"[^\W_]+", name)
