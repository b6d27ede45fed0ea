"""What Kedro-Viz's server shows of a finished run."""

import json
import os
import signal
import socket
import time
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

STAGES = {"prepare", "train_encoder", "z_stats", "pretrain", "finetune", "distill", "evaluate", "report"}


def is_free(port):
    with socket.socket() as free:
        return free.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def ask(finished, project):
    """Asks the server of a project of which the last run had nothing to do."""
    assert "nothing to do" in project.run("--pipeline=distill").stdout
    port = next(port for port in range(20000 + os.getpid() % 20000, 49000) if is_free(port))  # viz wants them low
    server = project.start("viz", "run", "--no-browser", "--env=tiny", f"--port={port}")
    opener = build_opener(ProxyHandler({}))

    def get(path):
        with opener.open(f"http://127.0.0.1:{port}/api/{path}", timeout=60) as answer:
            return json.load(answer)

    try:
        while True:
            try:
                get("version")
                break
            except URLError:
                assert server.poll() is None, server.stdout.read()
                time.sleep(0.2)
        yield get
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server is a child of the command
        server.communicate(timeout=60)


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
    assert STAGES | {"__default__", "benchmark"} == {pipeline["id"] for pipeline in graph["pipelines"]}


def test_every_dataset_lies_in_a_layer_and_layers_follow_the_data(graph):
    assert graph["layers"] == ["benchmark", "images", "models", "curves", "evaluation", "report"]
    assert len(datasets(graph)) == 30
    assert [name for name, node in datasets(graph).items() if node["layer"] is None] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reconstruction_figure", "ImagePreview"),
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
