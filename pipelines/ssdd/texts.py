"""Text that any file, table or terminal can hold, whatever the names of files contain.

On Linux, a file name is bytes. Where they are not UTF-8, Python keeps each as a lone surrogate, which no encoding of
text can hold. And a terminal may know fewer characters than UTF-8 has.
"""

import codecs
import contextlib
import re
import sys
import tempfile
from typing import TextIO

# one character for each, so that columns stay in line
_PLAIN = {"…": "~", "─": "-", "━": "-", "│": "|", "–": "-", "×": "x"}
_HANDLER = "ssdd.plain"


def is_unicode(name: str) -> bool:
    """Returns whether a name consists of characters that UTF-8 can hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def utf8(text: str) -> str:
    r"""Returns a text in characters that UTF-8 can hold; other bytes of a name appear as `\udc..`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def steady(message: str) -> str:
    """Returns a library's message without what differs from run to run: addresses of objects, temporary folders."""
    message = re.sub(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>", "", message)
    message = re.sub(r"\b0x[0-9a-fA-F]{6,}\b", "0x...", message)
    return re.sub(re.escape(tempfile.gettempdir()) + r"[\\/]([^\s'\"]*[\\/])?", "", message)


def shown(text: str, stream: TextIO) -> str:
    """Returns a text in characters that a stream's encoding holds; others are replaced or escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, _HANDLER).decode(encoding)


def print_any_text() -> None:
    """Makes the output streams replace or escape what their encoding does not hold, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        # A stream of a notebook has no such method, and one whose file was exchanged below it (`dup2`) may refuse.
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in characters)
    return "".join(plain), error.end


codecs.register_error(_HANDLER, _replace)
