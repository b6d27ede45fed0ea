"""What Kedro-Viz shows of a finished run: its server's answers and, where there is a Chromium, the page."""

import json
import os
import re
import signal
import socket
import time
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from PIL import Image

STAGES = {"prepare", "train_encoder", "z_stats", "pretrain", "finetune", "distill", "evaluate", "report"}


def is_free(port):
    with socket.socket() as free:
        return free.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def address(finished, project):
    """The server of a project of which the last run had nothing to do."""
    assert "nothing to do" in project.run("--pipeline=distill").stdout
    port = next(port for port in range(20000 + os.getpid() % 20000, 49000) if is_free(port))  # viz wants them low
    server = project.start("viz", "run", "--no-browser", "--env=tiny", f"--port={port}")
    try:
        while True:
            try:
                answer(f"http://127.0.0.1:{port}/api/version")
                break
            except URLError:
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server is a child of the command
        server.communicate(timeout=60)


def answer(url):
    with build_opener(ProxyHandler({})).open(url, timeout=60) as found:
        return json.load(found)


@pytest.fixture(scope="module")
def ask(address):
    return lambda path: answer(f"{address}/api/{path}")


@pytest.fixture(scope="module")
def graph(ask):
    return ask("main")


def datasets(graph):
    return {node["name"]: node for node in graph["nodes"] if node["type"] == "data"}


def test_every_stage_is_a_box(graph):
    assert {node["id"] for node in graph["nodes"] if node["type"] == "modularPipeline"} == STAGES
    for node in graph["nodes"]:
        if node["type"] == "task":
            assert set(node["modular_pipelines"]) <= STAGES
            assert len(node["modular_pipelines"]) == 1
    others = {"__default__", "benchmark", "compare", "generate", "latents", "release", "robustness", "train_generator"}
    others |= {"pack", "train_kl"}
    assert STAGES | others == {pipeline["id"] for pipeline in graph["pipelines"]}


def test_every_dataset_lies_in_a_layer_and_layers_follow_the_data(graph):
    layers = ["benchmark", "comparison", "images", "samples", "models", "curves", "evaluation", "report"]
    assert graph["layers"] == layers
    assert len(datasets(graph)) == 37
    assert [name for name, node in datasets(graph).items() if node["layer"] is None] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reconstruction_figure", "ImagePreview"),
        ("photographs_figure", "ImagePreview"),
        ("photograph_metrics", "TablePreview"),
        ("image_samples", "ImagePreview"),
        ("curves_figure", "PlotlyPreview"),
        ("metrics", "TablePreview"),
        ("image_index", "TablePreview"),
        ("distill_history", "TablePreview"),
        ("distilled", "JSONPreview"),
        ("latent_stats", "JSONPreview"),
        ("report", "HTMLPreview"),
    ],
)
def test_previews_are_there(ask, graph, name, kind):
    shown = ask(f"nodes/{datasets(graph)[name]['id']}")
    assert shown["preview_type"] == kind
    assert shown["preview"]


def test_skipped_nodes_are_shown_as_done(ask, graph):
    status = ask("run-status")
    assert status["pipeline"]["status"] == "success"
    wanted = {
        kind: {node["id"] for node in graph["nodes"] if node["type"] == name}
        for kind, name in (("nodes", "task"), ("datasets", "data"))
    }
    for kind, ids in wanted.items():
        assert status[kind].keys() == ids
        assert {entry["status"] for entry in status[kind].values()} == {"success"}
        assert {entry["error"] for entry in status[kind].values()} == {None}


def test_a_browser_draws_stages_layers_and_previews(address, graph, browse, tmp_path):
    page = f"{address}/?pid=distill&expandAllPipelines=false&sid={datasets(graph)['reconstruction_figure']['id']}"
    drawn = browse(page, "dump-dom")
    assert set(re.findall(r'<text class="pipeline-node__text[^>]*>([^<]+)<', drawn)) >= STAGES
    assert {"images", "models", "curves", "evaluation", "report"} <= set(
        re.findall(r'class="pipeline-layer-name[^>]*>([^<]+)<', drawn)
    )
    assert re.search(r'<img[^>]*src="data:image/png;base64,', drawn)
    picture = tmp_path / "viz.png"  # to be looked at
    for _ in range(5):  # a loaded machine may draw the preview after the page's time is over
        browse(page, f"screenshot={picture}")
        with Image.open(picture) as image:
            colours = len(image.convert("RGB").getcolors(2**24))
        if colours > 4000:  # the preview is a photograph's
            break
    assert colours > 4000
