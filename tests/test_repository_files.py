"""What a repository has beside its code: citation, templates, workflows and hooks are valid and say what is true."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
VALID = {
    "citation-file-format": ["CITATION.cff"],
    "github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "github-issue-forms": [".github/ISSUE_TEMPLATE/defect.yml", ".github/ISSUE_TEMPLATE/wish.yml"],
    "github-workflows": [str(file.relative_to(ROOT)) for file in WORKFLOWS],
}
REGISTRIES = re.compile(r"\b(?:[\w-]+\.)?(?:pypi|pythonhosted|npmjs|anaconda)\.(?:org|com)\b")


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program of the group `docs`, which lies beside Python."""
    program = shutil.which(name, path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"needs {name}, of the group docs")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def checks(file: str) -> set[str]:
    """The programs that a script or configuration starts with `uv run`."""
    return set(re.findall(r"uv run (ruff \w+|mypy|pytest)", (ROOT / file).read_text("utf-8")))


@pytest.mark.parametrize("schema", VALID)
def test_files_that_other_programs_read_are_valid(schema):
    done = tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *VALID[schema])
    assert done.returncode == 0, done.stdout


def test_workflows_are_safe():
    done = tool("zizmor", "--offline", "--no-progress", *WORKFLOWS, "--config", ".github/zizmor.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_workflow_that_runs_what_strangers_write_is_noticed(tmp_path):
    (tmp_path / ".github/workflows").mkdir(parents=True)
    file = tmp_path / ".github/workflows/bad.yml"
    title = "${{ github.event.issue.title }}"
    file.write_text(f"on: issues\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo {title}\n")
    done = tool("zizmor", "--offline", "--no-progress", file)
    assert "template-injection" in done.stdout


def test_no_token_is_in_a_workflow_and_no_registry_in_any_file():
    for file in WORKFLOWS:
        assert "secrets." not in file.read_text("utf-8"), file
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    named = []
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if (
            file.is_file()
            and file.suffix in (".py", ".md", ".yml", ".yaml", ".toml", ".cff", "")
            and file != Path(__file__)
        ):
            named += [f"{name}: {found}" for found in REGISTRIES.findall(file.read_text("utf-8"))]
    assert named == []


def test_every_python_that_is_declared_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {line.split()[-1] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)}
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]["fast"]["strategy"][
        "matrix"
    ]
    assert declared == set(matrix["python"])
    assert project["requires-python"] == f">={min(matrix['python'], key=lambda v: int(v.split('.')[1]))}"


def test_hooks_are_the_checks_of_ci():
    done = tool("pre-commit", "validate-config")
    assert done.returncode == 0, done.stdout
    assert checks(".pre-commit-config.yaml") == checks(".ci/run") == {"ruff check", "ruff format", "mypy", "pytest"}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}  # the project's own versions


def test_a_report_of_a_defect_asks_for_the_doctor():
    form = (ROOT / ".github/ISSUE_TEMPLATE/defect.yml").read_text("utf-8")
    (asked,) = (part for part in yaml.safe_load(form)["body"] if part.get("id") == "doctor")
    assert "ssdd doctor --json" in asked["attributes"]["label"]
    assert asked["validations"]["required"]
    assert "ssdd doctor --json" in (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text("utf-8")


def test_each_part_of_contributing_is_ten_lines_at_most():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert {part.split("\n")[0] for part in parts} >= {"Set up", "Tests", "Style", "Where a new part goes"}
    for part in parts:
        assert len([line for line in part.splitlines()[1:] if line.strip()]) <= 10, part
