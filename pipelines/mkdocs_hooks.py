"""The parts of the manual, put together: sections of the READMEs, tables of parameters and commands, diagrams.

A page names what it takes by a line of its own, which is a plain link for those who read the source:

    [Included: Use a model](../../README.md#use-a-model)
    [Generated: parameters](../ssdd/parameters.py)

The first takes the section below that heading, without an anchor the whole file; of `packages#rest`, all pages of the
packages that no page takes. A whole file has its headings below the one under which it stands. A section stands beside
those of the page; directly below a heading of the page, it has that one instead of its own. Links are led to the pages
of the manual; links to other files become text.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify
from mkdocs.structure.files import File

from mkdocs_diagrams import architecture, modules, stages
from mkdocs_tables import commands, environments, parameters

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = HERE / "docs"
PICTURES = ".png", ".jpg", ".svg"
INCLUDED = re.compile(r"^\[Included: [^\]]*\]\(([^)#]+)(?:#([\w-]+))?\)$", re.MULTILINE)
GENERATED = re.compile(r"^\[Generated: (\w+)\]\([^)]+\)$", re.MULTILINE)
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
# Sentences by which the READMEs and the guides of the packages name each other; a page holds both.
JOINT = re.compile(r"^(?:\[The guide\]\(docs/guide\.md\) goes on|The examples go on) from [\s\S]*?\.\s", re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pictures of the packages' own pages."""
    for picture in sorted(ROOT.glob("packages/*/docs/*")):
        if picture.suffix in PICTURES:
            files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Puts in what the page names, and leads links to pages of the manual."""
    source = DOCS / page.file.src_uri

    def include(found: re.Match[str]) -> str:
        file = (source.parent / found[1]).resolve()
        if file.is_dir():
            return "".join(_led("\n" + _shifted(other.read_text("utf-8"), 1), other, source) for other in _free_pages())
        return _led(_placed(_part(file, found[2]), found[2], found.string[: found.start()]), file, source)

    text = _led(markdown, source, source, keep=(INCLUDED, GENERATED))
    text = INCLUDED.sub(include, text)
    return GENERATED.sub(lambda found: GENERATORS[found[1]](), text)


def _sections(file: Path) -> dict[str, str]:
    """Slug -> text of each section of the second level, with its heading; "" is what comes before the first."""
    parts: dict[str, str] = {}
    slug = ""
    for line in _lines(file):
        if line.startswith("## "):
            slug = slugify(line[3:], "-")
        parts[slug] = parts.get(slug, "") + line
    return parts


def _lines(file: Path) -> Iterator[str]:
    """The lines of a file; a whole code block counts as one, so that no comment in it looks like a heading."""
    for number, block in enumerate(FENCE.split(file.read_text(encoding="utf-8"))):
        if number % 2:
            yield block
        else:
            yield from block.splitlines(keepends=True)


def _part(file: Path, anchor: str | None) -> str:
    sections = _sections(file)
    if anchor is not None:
        if anchor not in sections:
            raise ValueError(f"{file} has no section {anchor!r}; it has {list(sections)}")
        return sections[anchor]
    return re.sub(r"^# .*\n", "", "".join(sections.values()), count=1)


def _free_pages() -> list[Path]:
    """The pages of the packages that no page of the manual takes by name."""
    taken = {file for file, _ in _taken()}
    return [page for page in sorted(ROOT.glob("packages/*/docs/*.md")) if page not in taken]


def _placed(part: str, anchor: str | None, before: str) -> str:
    """A part of a file as it stands in a page, below what the page has `before` it."""
    above = HEADING.findall(FENCE.sub("", before))
    title, (marks, heading) = above[0][1], above[-1]
    part = JOINT.sub("", part)
    first = re.match(r"## (.+)\n", part) if anchor else None
    directly = re.search(r"^#+ .+\s*\Z", before, re.MULTILINE)
    if first and directly and (len(marks) > 1 or first[1] == title):
        own = "" if first[1] == heading else f'<a id="{slugify(first[1], "-")}"></a>\n'
        part = own + part[first.end() :]
    elif anchor:  # further down, the title would stand there twice
        return f"## In detail\n{part[first.end() :]}" if first and first[1] == title else part
    levels = [len(found) for found, _ in HEADING.findall(FENCE.sub("", part))]
    return _shifted(part, len(marks) + 1 - min(levels, default=0))


def _shifted(text: str, levels: int) -> str:
    """A text with its headings some levels lower."""
    blocks = FENCE.split(text)
    blocks[::2] = [HEADING.sub(lambda m: f"{'#' * (len(m[1]) + levels)} {m[2]}", block) for block in blocks[::2]]
    return "".join(blocks)


@cache
def _taken() -> dict[tuple[Path, str], str]:
    """File and slug of a section, "" for the whole file -> the page of the manual that takes it."""
    found: dict[tuple[Path, str], str] = {}
    for page in sorted(DOCS.rglob("*.md")):
        for target, anchor in INCLUDED.findall(page.read_text(encoding="utf-8")):
            found[(page.parent / target).resolve(), anchor] = page.relative_to(DOCS).as_posix()
    return found


def _page_of(file: Path, anchor: str) -> str | None:
    """The page of the manual (with anchor) that holds a heading of a file; None if no page does."""
    taken = _taken()
    slugs = {"": ""}  # heading of any level -> section
    section = ""
    for line in _lines(file) if file.suffix == ".md" and file.is_file() else ():
        if found := HEADING.match(line):
            slug = slugify(found[2], "-")
            section = slug if len(found[1]) == 2 else section
            slugs[slug] = section
    if anchor not in slugs:
        return None
    if file in _free_pages():
        return f"{taken[ROOT / 'packages', 'rest']}#{anchor or slugify(_title(file), '-')}"
    page = taken.get((file, slugs[anchor])) or taken.get((file, ""))
    if page is None and not anchor:
        page = next((name for (other, _), name in taken.items() if other == file), None)
    return page and f"{page}#{anchor}".rstrip("#")


def _title(file: Path) -> str:
    return file.read_text(encoding="utf-8").split("\n")[0].removeprefix("# ")


def _led(text: str, source: Path, page: Path, keep: tuple[re.Pattern[str], ...] = ()) -> str:
    """The text with its links led to the manual, seen from a page; code blocks stay as they are."""

    def lead(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        if any(pattern.match(found[0]) for pattern in keep) or re.match(r"[a-z]+:", target):
            return found[0]
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve() if path else source
        if file.is_relative_to(DOCS):
            place = f"{_relative(file, page)}#{anchor}".rstrip("#")
            return found[0] if source == page else f"{mark}[{label}]({place})"
        if mark:
            return f"![{label}]({_relative(DOCS / 'pictures' / file.name, page)})"
        held = _page_of(file, anchor) or _api_page(file)
        return f"[{label}]({_relative(DOCS / held, page)})" if held else label

    blocks = FENCE.split(text)
    blocks[::2] = [LINK.sub(lead, block) for block in blocks[::2]]
    return "".join(blocks)


def _relative(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target, page.parent)).as_posix()


def _api_page(file: Path) -> str | None:
    """The place of a module in the API reference, if it is there."""
    for api in sorted((DOCS / "api").glob("*.md")):
        for module in re.findall(r"^::: ([\w.]+)$", api.read_text(encoding="utf-8"), re.MULTILINE):
            if file.as_posix().endswith(module.replace(".", "/") + ".py"):
                return f"api/{api.name}#{module}"
    return None


GENERATORS: dict[str, Callable[[], str]] = {
    "architecture": architecture,
    "commands": commands,
    "environments": environments,
    "modules": modules,
    "parameters": parameters,
    "stages": stages,
}
