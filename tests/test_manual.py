"""The manual: it builds without warnings, links lead somewhere, its search finds, browsers show it, its code runs."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "pipelines/docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The manual, built by the command that it states."""
    pytest.importorskip("mkdocs", reason="needs the group docs")
    pytest.importorskip("material", reason="needs the group docs")
    folder = tmp_path_factory.mktemp("manual")
    (build,) = re.findall(r"^```sh\n(uv run .*)\n```", (DOCS / "contribute.md").read_text("utf-8"), re.MULTILINE)
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "expected uv on the path: pip install uv"
    here = {"UV_PROJECT_ENVIRONMENT": sys.prefix, "UV_NO_SYNC": "1", "UV_OFFLINE": "1", "NO_MKDOCS_2_WARNING": "1"}
    quiet = {**os.environ, **here, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [uv, *build.split()[1:], "-d", str(folder)], cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


class Page(HTMLParser):
    """What a page links to, loads and can be linked to by."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {str(found[key]) for key in ("id", "name") if key in found}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag in LOADING and found.get(LOADING[tag]) and found.get("rel") != "canonical":
            self.loaded.append(str(found[LOADING[tag]]))


def dead_links(site: Path) -> list[str]:
    """`page -> target` of each link to a file or anchor that is not there."""
    pages = {file: Page(file) for file in sorted(site.rglob("*.html")) if file.name != "404.html"}
    assert len(pages) > 20
    dead = []
    for file, page in pages.items():
        for link in (*page.links, *page.loaded):
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", path):
                continue
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else set()
            if not target.is_file() or (anchor and anchor not in known and anchor != "__nothing"):
                dead.append(f"{file.relative_to(site)} -> {link}")
    return dead


def test_no_link_or_anchor_is_dead(site):
    assert dead_links(site) == []


def test_dead_links_are_noticed(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    page = tmp_path / "site/words.html"
    page.write_text(
        page.read_text("utf-8").replace("</article>", '<a href="no.html">x</a><a href="#no">y</a></article>')
    )
    assert dead_links(tmp_path / "site") == ["words.html -> no.html", "words.html -> #no"]


def test_nothing_is_loaded_from_another_server(site):
    for file in site.rglob("*.html"):
        assert [link for link in Page(file).loaded if "//" in link] == [], file


def lost_lists(page: str) -> list[str]:
    """The list items that stand in a paragraph as text: Python-Markdown wants a blank line before a list."""
    found = (re.search(r"\n\s*(?:[*+-]|\d+\.) \S.*", text) for text in re.findall(r"<p>(.*?)</p>", page, re.DOTALL))
    return [item[0] for item in found if item]


def test_lists_are_lists(site):
    assert lost_lists("<p>These hold:\n* <strong>one</strong>\n* two</p><p>3 - 2\n is 1</p>") != []
    found = {file.name: lost_lists(file.read_text("utf-8")) for file in site.rglob("*.html")}
    assert {name: items for name, items in found.items() if items} == {}


@pytest.mark.parametrize(
    ("words", "pages"),
    [
        ("distillation loss", {"api/decoder.html", "decoder.html"}),
        ("stale", {"lineage.html"}),
        ("ComfyUI", {"drop-in.html"}),
        ("stable diffusion script", {"drop-in.html"}),
        ("folder photographs", {"train.html"}),
        ("doctor", {"commands.html", "limits.html"}),
    ],
)
def test_the_search_finds_the_page(site, words, pages):
    lunr = pytest.importorskip("lunr", reason="needs the group docs").lunr
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    # lunr.js cuts words at the separator of the configuration, and lunr.py at spaces and hyphens
    cut = re.compile(index["config"]["separator"])
    documents = [{k: cut.sub(" ", v) if k in ("title", "text") else v for k, v in d.items()} for d in index["docs"]]
    known = lunr("location", [{"field_name": "title", "boost": 1000}, "text"], documents)
    found = [result["ref"].partition("#")[0] for result in known.search(" ".join(f"+{word}" for word in words.split()))]
    assert set(found[:2]) & pages, found[:5]


def test_the_search_works_in_a_folder_opened_by_a_browser(site, browse):
    drawn = browse(f"file://{site}/index.html?q=stale", "dump-dom")
    found = re.findall(r'<a href="[^"]*/([\w-]+\.html)[^"]*" class="md-search-result__link"', drawn)
    assert "lineage.html" in found[:2], found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1300, 1000), (390, 844)])
def test_a_browser_shows_each_page_as_wide_as_its_window(site, browse, tmp_path, width, height, scheme):
    shutil.copytree(site, tmp_path / "site")
    pages = ("parameters", "performance", "architecture") if scheme == "light" else ("lineage",)
    width_told = "onload=()=>document.body.dataset.wider=document.documentElement.scrollWidth-innerWidth"
    options = (f"window-size={width},{height}", f"blink-settings=preferredColorScheme={int(scheme == 'light')}")
    for name in pages:
        page = tmp_path / f"site/{name}.html"
        page.write_text(page.read_text("utf-8").replace("</body>", f"<script>{width_told}</script></body>"))
        drawn = browse(f"file://{page}", "dump-dom", *options)
        assert int(re.search(r'data-wider="(.*?)"', drawn)[1]) <= 0, name
        assert f'data-md-color-scheme="{"slate" if scheme == "dark" else "default"}"' in drawn
    picture = tmp_path / "page.png"  # to be looked at
    browse(f"file://{page}", f"screenshot={picture}", *options)
    with Image.open(picture) as image:
        assert image.size == (width, height)
        corner = image.convert("L").getpixel((2, height - 2))
        assert corner < 100 if scheme == "dark" else corner > 200


ALONE = [p for p in PAGES if "```python" in (DOCS / p).read_text("utf-8") and p != "generation.md"]


@pytest.mark.parametrize("page", ALONE)  # generation.md goes on from its commands: see test_readme_commands.py
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    exec(compile("\n".join(blocks), page, "exec"), {})


def test_every_parameter_has_a_row(site):
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "parameters.html").read_text("utf-8")))
    releases = sorted((ROOT / "tests/data/releases").iterdir())
    names = re.findall(r"^parameter (\S+)$", (releases[-1] / "surface.txt").read_text("utf-8"), re.MULTILINE)
    assert len(names) > 300
    stages = ("train_encoder", "pretrain", "finetune", "distill")
    assert [n for n in names if n not in text and not (n.startswith(stages) and n.partition(".")[2] in text)] == []


def test_every_parameter_has_values_and_a_meaning(site):
    page = (site / "parameters.html").read_text("utf-8")
    rows = [re.sub(r"\s+", " ", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL) if "<td>" in row]
    assert len(rows) > 300
    assert [row for row in rows if row.rstrip().endswith("<td></td>")] == []
    assert [row for row in rows if re.search(r"Union|Annotated|NoneType|Literal|<td><code>&amp;", row)] == []
    assert "Prefix each name with the stage" in page
    epochs = next(row for row in rows if row.startswith(" <td><code>epochs</code>"))
    assert "<code>2</code> (train_encoder); <code>1</code> (finetune); <code>5</code> (distill)" in epochs


def test_every_change_of_an_environment_has_a_row(site):
    page = re.sub(r"\s+", " ", html.unescape((site / "experiments.html").read_text("utf-8")))
    for environment in sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "base"):
        assert f"--env={environment}</code>" in page
    epochs = re.findall(r"<td><code>epochs</code></td> <td>([^<]*)</td> <td>(.*?)</td> <td>(.*?)</td>", page)
    assert ("finetune", "<code>1</code>", "<code>200</code>") in epochs
    assert re.search(r"<td><code>decoding</code></td> <td>benchmark</td> <td>.*?</td> <td>listed below</td>", page)
    assert "<td><code>teacher_targets.cached</code></td>" not in page  # only within its group


def test_help_texts_and_options_show_as_they_are(site):
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "commands.html").read_text("utf-8")))
    assert "data/<run>/" in page
    assert re.search(r"--device\s+auto, cpu or cuda\s+auto\s", page)
    assert "f<F>c<C>" in html.unescape(re.sub(r"<[^>]+>", "", (site / "parameters.html").read_text("utf-8")))


def test_the_messages_of_the_page_of_errors_are_those_of_the_code():
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text("utf-8"))
        for folder in (ROOT / "pipelines/ssdd", *sorted(ROOT.glob("packages/*/src")))
        for file in folder.rglob("*.py")
    )
    source = re.sub(r"\{[^{}]*\}", "", source)
    rows = (DOCS / "limits.md").read_text("utf-8").split("## Errors")[1].splitlines()
    messages = [row.split("|")[1].strip() for row in rows if row.startswith("| ") and not row.startswith("| message")]
    assert len(messages) > 8
    missing = [part for text in messages for part in re.split(r"\s*\.\.\.\s*", text) if part and part not in source]
    assert missing == []
