"""Makes the manual's pictures from a finished quickstart: the plan as a drawing, Kedro-Viz as a screenshot.

    uv run kedro run --pipeline=distill
    uv run python pipelines/mkdocs_pictures.py

Needs a Chromium on the path.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = Path(__file__).parent / "docs" / "pictures"
PLAN = ("kedro", "run", "--pipeline=distill", "--plan", "--params", "distill.optim.lr=0.002")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PORT = 41410


def draw_plan() -> None:
    """Draws what the command prints, as a terminal of 110 columns shows it."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "110"}
    said = subprocess.run(PLAN, env=environment, capture_output=True, text=True, check=True).stdout
    lines = [line for line in said.splitlines() if " INFO " not in line and line.strip()]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=110, file=nowhere)
        console.print(Text.from_ansi("\n".join(lines)))
    drawn = console.export_svg(title=" ".join(PLAN))
    # Its fonts would come from another server.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code,", "")
    (PICTURES / "plan.svg").write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE), encoding="utf-8")


def take_viz() -> None:
    """Takes a picture of the page of Kedro-Viz with the preview of the reconstructions."""
    with tempfile.TemporaryDirectory() as profile:
        _dismiss_hints(profile)
        viz = ("kedro", "viz", "run", "--no-browser", f"--port={PORT}")
        server = subprocess.Popen(viz, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            nodes = _answer(f"http://127.0.0.1:{PORT}/api/main")["nodes"]
            chosen = next(node["id"] for node in nodes if node["name"] == "reconstruction_figure")
            page = f"http://127.0.0.1:{PORT}/?pid=distill&expandAllPipelines=false&sid={chosen}"
            _browse(page, profile, f"screenshot={PICTURES / 'viz.png'}")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


class _Hints(BaseHTTPRequestHandler):
    """A page that stores, for the address of Viz, that its hints for new users have been seen."""

    def do_GET(self) -> None:
        """Answers any request."""
        seen = json.dumps({"showFeatureHints": False, "featureHintStep": 0})
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f"<script>localStorage.setItem('KedroViz', '{seen}')</script>".encode())


def _dismiss_hints(profile: str) -> None:
    with HTTPServer(("127.0.0.1", PORT), _Hints) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _browse(f"http://127.0.0.1:{PORT}/", profile, "dump-dom")
        server.shutdown()


def _browse(page: str, profile: str, *wanted: str) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("expected a Chromium on the path")
    quiet = (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "hide-scrollbars",
        "disable-background-networking",
    )
    shown = ("window-size=1500,900", "virtual-time-budget=30000", f"user-data-dir={profile}")
    options = [f"--{name}" for name in (*quiet, *shown, *wanted)]
    subprocess.run([browser, *options, page], check=True, capture_output=True, timeout=300)


def _answer(address: str) -> dict:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=60) as found:
                return json.load(found)
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"expected an answer from {address}")


if __name__ == "__main__":
    draw_plan()
    take_viz()
