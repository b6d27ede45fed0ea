"""Kedro's commands as a shell runs them: parts of the pipeline, notebooks, and a project that may not be written."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

PARTS = {  # options -> the nodes that run again after the report's page and the curves are gone
    "--nodes=report.draw_curves": {"report.draw_curves"},
    "--from-nodes=report.draw_curves": {"report.draw_curves", "report.write_report"},
    "--to-nodes=report.draw_curves": {"report.draw_curves"},
    "--from-nodes=report.draw_curves --to-nodes=report.write_report": {"report.draw_curves", "report.write_report"},
    "--tags=distributed": set(),
    "--only-missing-outputs": {"report.draw_curves", "report.write_report"},
    "--only-missing-outputs --to-nodes=report.draw_curves": {"report.draw_curves"},
}


@pytest.mark.parametrize("options", PARTS)
def test_a_part_of_the_pipeline_runs(copied, options):
    report = copied.run_folder / "report"
    gone = [report / "report.html", *report.glob("curves*")]
    before = {file: file.stat().st_mtime_ns for file in copied.run_folder.rglob("*.*") if file.is_file()}
    assert len(gone) > 2  # with their stamps
    for file in gone:
        file.unlink()
    assert copied.ran("--pipeline=distill", *options.split()) == PARTS[options]
    made = {file for file in copied.run_folder.rglob("*.*") if file.is_file()}
    changed = {file for file in made if before.get(file) != file.stat().st_mtime_ns}
    assert {file.parent.name for file in changed} <= {"report"}
    assert (report / "report.html").exists() == ("report.write_report" in PARTS[options])


def test_options_that_name_nothing_are_errors_of_one_line(project):
    for option in (
        "--nodes=report.draw",
        "--from-nodes=x",
        "--to-nodes=x",
        "--tags=x",
        "--from-inputs=x",
        "--to-outputs=x",
    ):
        done = project.kedro("run", "--env=tiny", option)
        assert done.returncode == 1
        assert "Error: unknown" in done.stdout
        assert "Traceback" not in done.stdout


def wait_for(address, process, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {address}")


@pytest.fixture
def jupyter(project, tmp_path, monkeypatch):
    """Folders of its own for Jupyter, which would else write to the user's."""
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
        monkeypatch.setitem(project.environment, f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setitem(project.environment, "KEDRO_ENV", "tiny")
    return project


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("what", ["notebook", "lab"])
def test_a_notebook_has_the_projects_kernel(finished, jupyter, tmp_path, what):
    port = free_port()
    server = jupyter.start(
        "jupyter", what, "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=abc"
    )
    try:
        specs = wait_for(f"http://127.0.0.1:{port}/api/kernelspecs?token=abc", server)
        assert specs["default"] == "kedro_ssdd"
        if what == "notebook":
            cells = ['print(len(catalog.load("metrics")))', 'session.run(pipeline_names=["distill"])']
            book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
            client = NotebookClient(book, kernel_name="kedro_ssdd", timeout=300)
            client.execute(cwd=str(jupyter.folder), env=jupyter.environment)
            said = " ".join(json.dumps(output) for cell in book.cells for output in cell.outputs)
            assert "nothing to do" in said  # the run is the finished one
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        said, _ = server.communicate(timeout=60)
    assert "Traceback" not in said


# A file system that is read-only below one folder, for root too: Python asks this hook before it opens or makes a file.
READ_ONLY = """
import errno, os, sys
PROJECT, DATA = os.environ["READ_ONLY"], os.environ["READ_ONLY"] + "/data"
EVENTS = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.utime"}

def hook(event, arguments):
    if event in EVENTS or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        path = os.path.abspath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes, os.PathLike)) else ""
        if path.startswith(PROJECT) and not path.startswith(DATA + "/"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

sys.addaudithook(hook)
"""


@pytest.fixture
def read_only(copied, tmp_path):
    """Runs kedro in the project, of which only `data/` may be written, if there is one."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(READ_ONLY)
    path = os.pathsep.join([str(tmp_path / "site"), copied.environment["PYTHONPATH"]])
    environment = copied.environment | {"PYTHONPATH": path, "READ_ONLY": str(copied.folder)}

    def run(*arguments):
        command = [sys.executable, "-m", "kedro", "run", "--env=tiny", *arguments]
        done = subprocess.run(command, cwd=copied.folder, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_read_only_project_with_its_data_elsewhere(copied, read_only, tmp_path):
    before = {file for file in copied.folder.rglob("*") if "data" not in file.parts}
    (copied.folder / "data").rename(tmp_path / "elsewhere")
    (copied.folder / "data").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    code, said = read_only("--pipeline=distill")
    assert code == 0, said
    assert "is up to date" in said
    code, said = read_only("--pipeline=pretrain", "--params=run_name=other,encoder_checkpoint=quickstart")
    assert code == 0, said
    assert (tmp_path / "elsewhere/other/models/pretrained.safetensors").is_file()
    after = {file for file in copied.folder.rglob("*") if "data" not in file.parts}
    assert {file for file in after - before if file.name != "data"} == set()


def test_a_read_only_project_without_a_place_for_data_says_so(copied, read_only, tmp_path):
    (copied.folder / "data").rename(tmp_path / "elsewhere")
    code, said = read_only("--pipeline=prepare")
    assert code == 1
    assert f"Error: Read-only file system: {copied.folder / 'data'}" in " ".join(said.split())
    assert "Traceback" not in said
