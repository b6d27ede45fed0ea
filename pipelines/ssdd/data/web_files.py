"""Files on a web server, which are listed by its index pages; and files anywhere that an address names one by one."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from ssdd.data.remote_files import RemoteError, RemoteFiles, version_of

WEB = ("http", "https")
CONNECTIONS = 16  # that ask for sizes at a time
MOST_NAMES = 100_000  # of one address; more are a typing error
_BRACES = re.compile(r"\{([^{}]+)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def open_files(url: str) -> RemoteFiles:
    """Opens the files at an address.

    Args:
        url: of a folder, or of files that braces number: `https://host/set/train-{000..127}.tar`.

    Raises:
        ValueError: the address holds credentials, or no package for its kind is installed.
    """
    return NamedFiles(url) if url.partition("://")[0] in WEB or "{" in url else RemoteFiles(url)


class NamedFiles(RemoteFiles):
    """Files whose names an address holds, or the index pages of a web server; each is asked for its size and tag.

    Args:
        url: see `open_files`.

    Raises:
        ValueError: the address holds credentials, or no package for its kind is installed.
    """

    def __init__(self, url: str) -> None:
        folder, braces, _ = url.partition("{")
        folder = folder.rpartition("/")[0] if braces else url
        self._names = expanded(url[len(folder) + 1 :]) if braces else []
        super().__init__(folder)

    def listing(self) -> dict[str, str]:
        """Returns the versions of all files by their relative names, sorted.

        Raises:
            RemoteError: the server does not answer.
            ValueError: there is nothing at the address, or a named file is missing.
        """
        names = sorted(self._names or self._linked())
        if not names:
            raise ValueError(f"expected files at {self.url}, found none: check the address and the server's index page")
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return dict(zip(names, pool.map(self._version, names), strict=True))

    def where(self, name: str) -> str:
        """Returns the address of a file."""
        return super().where(quote(name) if self.scheme in WEB else name)

    def _version(self, name: str) -> str:
        where = self.where(name)
        try:
            return version_of(self._try(lambda fs: self._info(fs, where), where))
        except FileNotFoundError:
            raise ValueError(f"expected a file at {where}, found none: check the address") from None

    def _info(self, filesystem: Any, where: str) -> dict[str, Any]:
        try:
            info: dict[str, Any] = filesystem.info(where)
        except FileNotFoundError as error:
            # fsspec says of any failure of a web server that there is no file.
            if self.scheme in WEB and getattr(error.__cause__, "status", None) not in (404, 410):
                raise RemoteError(where) from error.__cause__
            raise
        return info

    def _linked(self) -> list[str]:
        """Returns the names of all files to which index pages at and below the address link."""
        found: list[str] = []
        folders, seen = [""], {""}
        while folders:
            page = f"{self.url}/{quote(folders.pop())}"
            try:
                links: list[str] = self._try(partial(_links, page), page)
            except FileNotFoundError:
                continue
            # Pages also link to folders above, to other places, and to themselves in another order (?C=N).
            for link in sorted(link for link in links if link.startswith(page) and not re.search("[?#]", link)):
                name = unquote(link[len(self.url) + 1 :])
                if name not in seen and ".." not in name.split("/"):
                    seen.add(name)
                    (folders if name.endswith("/") else found).append(name)
        return found


def _links(page: str, filesystem: Any) -> list[str]:
    found: list[str] = filesystem.ls(page, detail=False)
    return found


def expanded(text: str) -> list[str]:
    """Returns the names that braces stand for: `a-{08..10}.tar` for three, `{a,b}.tar` for two.

    Raises:
        ValueError: the braces hold neither a range nor a list, or stand for too many names.
    """
    pieces = _BRACES.split(text)  # text and braces in turn
    choices = [[piece] if place % 2 == 0 else _choices(piece) for place, piece in enumerate(pieces)]
    if re.search("[{}]", "".join(pieces[::2])):
        raise ValueError(f"expected braces such as {{000..127}} or {{a,b}}, got {text!r}: close each, nest none")
    names = ["".join(choice) for choice in itertools.islice(itertools.product(*choices), MOST_NAMES + 1)]
    if len(names) > MOST_NAMES:
        raise ValueError(f"expected braces for at most {MOST_NAMES} names, got more with {text!r}: check the numbers")
    return names


def _choices(piece: str) -> list[str]:
    if match := _RANGE.fullmatch(piece):
        first, last = (int(number) for number in match.groups())
        width = len(match[1]) if match[1].startswith("0") else 0
        if not first <= last < first + MOST_NAMES:
            raise ValueError(f"expected a range such as {{000..127}}, got {{{piece}}}: begin with the smaller number")
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if "," in piece:
        return piece.split(",")
    raise ValueError(f"expected braces such as {{000..127}} or {{a,b}}, got {{{piece}}}: name a range or a list")
