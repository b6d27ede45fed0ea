"""Rules of the sources: the order of imports, files that packages share, and that no pickle is loaded."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    name: ROOT / "packages" / name.replace("_", "-") / "src" / name
    for name in ("ssdd_encoder", "ssdd_decoder", "ssdd_metrics")
}
APPLICATION = ROOT / "pipelines" / "ssdd"
# In the order of the data flow: a file imports only from files above it.
ORDER = {
    "ssdd_encoder": "files sources checkpoint config blocks posterior latents sdvae encoder __init__",
    "ssdd_decoder": (
        "files sources checkpoint config flow times linear modulation norm fused attention conditioning blocks "
        "unet sampler decoder losses distill adversarial __init__"
    ),
}
# Files of ssdd_encoder, and the folders with a link to them: no package may need another one to be installed.
LINKED = {
    "files": [PACKAGES["ssdd_decoder"], PACKAGES["ssdd_metrics"], APPLICATION],
    "sources": [PACKAGES["ssdd_decoder"]],
    "checkpoint": [PACKAGES["ssdd_decoder"]],
}
LIGHT = {
    "ssdd_encoder": {"torch", "safetensors", "huggingface_hub"},
    "ssdd_decoder": {"torch", "safetensors", "huggingface_hub"},
}


def sources() -> list[Path]:
    files = [file for folder in (*PACKAGES.values(), APPLICATION) for file in sorted(folder.rglob("*.py"))]
    assert len(files) > 40
    return files


def imported(file: Path) -> set[str]:
    """Modules that a file imports, wherever in it; `from package import name` counts as both."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = next((name for name, folder in PACKAGES.items() if folder in file.parents), "ssdd")
                module = f"{package}.{module}" if module else package
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def roots(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_neither_each_other_nor_the_application(package):
    others = {*PACKAGES, "ssdd", "kedro"} - {package}
    for file in PACKAGES[package].rglob("*.py"):
        assert not roots(file) & others, file


@pytest.mark.parametrize("package", LIGHT)
def test_network_packages_import_only_what_they_declare(package):
    import sys

    for file in PACKAGES[package].rglob("*.py"):
        assert roots(file) <= LIGHT[package] | {package} | set(sys.stdlib_module_names), file


@pytest.mark.parametrize("package", ORDER)
def test_files_import_only_from_files_above_them(package):
    order = ORDER[package].split()
    assert sorted(order) == sorted(file.stem for file in PACKAGES[package].glob("*.py"))
    for position, stem in enumerate(order):
        below = {f"{package}.{other}" for other in order[position:]}
        taken = {".".join(name.split(".")[:2]) for name in imported(PACKAGES[package] / f"{stem}.py")}
        assert not taken & below, stem


@pytest.mark.parametrize("name", LINKED)
def test_shared_files_have_one_physical_source(name):
    import tomllib

    source = PACKAGES["ssdd_encoder"] / f"{name}.py"
    assert not source.is_symlink()
    for folder in LINKED[name]:
        link = folder / source.name
        assert link.is_symlink(), f"{link} is a copy: make it a link to {source}"
        assert link.resolve() == source.resolve()
        assert not link.readlink().is_absolute()
        # An sdist would hold the link, which leads nowhere in it, if its package did not name the file.
        project = next(parent for parent in link.parents if (parent / "pyproject.toml").is_file())
        settings = tomllib.loads((project / "pyproject.toml").read_text())
        forced = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["force-include"].items()
        named = {(project / target): (project / path).resolve() for path, target in forced}
        assert named[link] == source.resolve()


def test_no_other_file_is_a_link_or_a_copy():
    links = {folder / f"{name}.py" for name, folders in LINKED.items() for folder in folders}
    assert {file for file in sources() if file.is_symlink()} == links
    texts: dict[str, Path] = {}
    for file in (file for file in sources() if file not in links and file.stat().st_size > 200):
        assert texts.setdefault(file.read_text(), file) == file, f"{file} is a copy"


@pytest.mark.parametrize("package", LIGHT)
def test_packages_export_what_they_say_and_are_typed(package):
    tree = ast.parse((PACKAGES[package] / "__init__.py").read_text())
    assert (PACKAGES[package] / "py.typed").is_file()
    assigned = {t.id: ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
    exported = {alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert set(assigned["__all__"]) == exported
    version = (PACKAGES[package].parents[1] / "pyproject.toml").read_text()
    assert f'version = "{assigned["__version__"]}"' in version


def test_pickles_are_loaded_nowhere_but_as_tensors_by_pretrained_networks():
    """Networks published as `.pth` only are read by PyTorch's restricted reader, after their hash was checked."""
    pretrained_networks = PACKAGES["ssdd_metrics"] / "weights.py"
    for file in sources():
        assert not roots(file) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, file
        assert "torch.load" not in imported(file), file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert (file, keywords.get("weights_only")) == (pretrained_networks, "True"), file


def test_networks_neither_print_nor_move_themselves():
    for package in LIGHT:
        for file in PACKAGES[package].rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    assert name not in {"cuda", "print", "getLogger"}, f"{name} in {file}:{node.lineno}"


def test_no_stray_file_is_large_or_locked():
    import subprocess

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [
        file for file in files if file.name == "uv.lock" or (file.is_file() and file.stat().st_size > 4_000_000)
    ]
