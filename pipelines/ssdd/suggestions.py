"""The hint of every message about an unknown name: the nearest known one."""

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str:
    """Returns `; did you mean 'x'?` with the nearest known word, or all known words where none is near."""
    # 0.5 still finds `lr` for `rl`; difflib's default of 0.6 misses swapped letters in words that short.
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
