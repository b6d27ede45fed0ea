"""The house's rules, read from the source: who imports whom, what is vendored, and that no pickle is loaded."""

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
        "files sources checkpoint config flow times linear modulation norm conditioning window fused attention blocks "
        "unet sampler decoder losses distill adversarial __init__"
    ),
}
VENDORED = {
    "files": [*PACKAGES.values(), APPLICATION],
    "sources": [PACKAGES["ssdd_encoder"], PACKAGES["ssdd_decoder"]],
    "checkpoint": [PACKAGES["ssdd_encoder"], PACKAGES["ssdd_decoder"]],
}
LIGHT = {
    "ssdd_encoder": {"torch", "safetensors", "huggingface_hub"},
    "ssdd_decoder": {"torch", "safetensors", "einops", "huggingface_hub"},
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


@pytest.mark.parametrize("name", VENDORED)
def test_vendored_files_are_equal_letter_for_letter(name):
    texts = {folder.name: (folder / f"{name}.py").read_text() for folder in VENDORED[name]}
    assert len(set(texts.values())) == 1, f"{name}.py differs among {', '.join(texts)}"


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
