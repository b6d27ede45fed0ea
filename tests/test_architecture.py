"""Rules of the sources: the order of imports, files that packages share, and that no pickle is loaded."""

import ast
import importlib
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
    "ssdd_encoder": (
        "files sources header checkpoint strips config blocks tiles posterior latents sdvae encoder __init__"
    ),
    "ssdd_decoder": (
        "files sources header checkpoint strips config flow times linear gpu modulation norm_kernel norm "
        "attention_kernel attention conditioning pointwise_kernels convolution blocks patches refinement unet sampler "
        "tiles recording decoder losses distill adversarial __init__"
    ),
}
# Files of ssdd_encoder, and the folders with a link to them: no package may need another one to be installed.
LINKED = {
    "files": [PACKAGES["ssdd_decoder"], PACKAGES["ssdd_metrics"], APPLICATION],
    "sources": [PACKAGES["ssdd_decoder"]],
    "header": [PACKAGES["ssdd_decoder"]],
    "checkpoint": [PACKAGES["ssdd_decoder"]],
    "strips": [PACKAGES["ssdd_decoder"]],
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
        # PyTorch's builds for GPUs bring Triton. A file of kernels is imported only where one runs.
        allowed = LIGHT[package] | ({"triton"} if "_kernel" in file.stem else set())
        assert roots(file) <= allowed | {package} | set(sys.stdlib_module_names), file


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
    exported = {**names_from(tree.body), **on_first_use(tree)}
    exported.pop("TYPE_CHECKING")
    assert set(assigned["__all__"]) == exported.keys()
    version = (PACKAGES[package].parents[1] / "pyproject.toml").read_text()
    assert f'version = "{assigned["__version__"]}"' in version


@pytest.mark.parametrize("package", [*PACKAGES, "ssdd"])
def test_names_on_first_use_are_those_that_type_checkers_see(package):
    """The lineage, too, reads there which code such a name stands for."""
    folder = PACKAGES.get(package, APPLICATION)
    names = on_first_use(ast.parse((folder / "__init__.py").read_text()))
    assert names
    for name, module in names.items():
        assert getattr(importlib.import_module(package), name) is getattr(importlib.import_module(module), name)


def names_from(statements: list[ast.stmt]) -> dict[str, str]:
    """Name -> module of the statements `from module import name`."""
    found = [n for n in statements if isinstance(n, ast.ImportFrom)]
    return {alias.asname or alias.name: str(node.module) for node in found for alias in node.names}


def on_first_use(tree: ast.Module) -> dict[str, str]:
    """Name -> module of what a package imports on first use."""
    checking = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return {name: module for node in checking for name, module in names_from(node.body).items()}


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
    limits = {file: 10_000_000 if file.parent == APPLICATION / "models" else 4_000_000 for file in files}
    assert not [
        file
        for file, most in limits.items()
        if file.name == "uv.lock" or (file.is_file() and file.stat().st_size > most)
    ]


# The application, drawn as a house: a line imports only from lines below it, never from a line above and never from a
# neighbour on its own line. Rooms are folders and end with a slash, the others are files.
HOUSE = """
    __main__
    settings
    cli
    hooks
    pipeline_registry
    commands/
    stages/
    datasets/
    lineage/
    reporting/
    benchmarking/
    generation/
    training/
    evaluation/
    imaging/
    data/
    __init__            the model itself, `ssdd.SSDD` and `ssdd.AutoencoderSSDD`: what a user without Kedro imports
    integrations/
    kl_export
    baselines           decoders that SSDD is compared with
    autoencoder  model_files
    encoders  imported_encoders
    diffusers_encoders
    latent_scaling
    own_process
    processes  packaged
    comparison_parameters  generation_parameters
    runs  benchmark_parameters  pack_parameters
    noise  parameters  upscaling
    runtime_parameters
    errors  suggestions  loop_parameters  old_parameters  deadlines  progress  launchers  meeting
    files  texts  hardware  number_formats  sqlite_caches
"""


def house() -> dict[str, int]:
    """Room or file -> its floor, from below."""
    lines = [line.strip().partition("    ")[0] for line in reversed(HOUSE.strip().splitlines())]
    return {name.rstrip("/"): floor for floor, line in enumerate(lines) for name in line.split()}


def application() -> dict[str, Path]:
    """Dotted module name -> file, of all modules of the application; a package by its `__init__`."""
    parts = {file: file.relative_to(APPLICATION).with_suffix("").parts for file in sorted(APPLICATION.rglob("*.py"))}
    return {
        ".".join(["ssdd", *names[: -1 if names[-1] == "__init__" else None]]): file for file, names in parts.items()
    }


def imported_modules(file: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the application that a file imports, lazily and for type checkers too; strings do not count."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in modules else str(node.module))
    return found & modules.keys()


def place(module: str) -> str:
    """The room or top-level file of a module."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_and_file_of_the_application_stands_in_the_house():
    assert {place(module) for module in application()} == house().keys()


def test_no_arrow_in_the_application_runs_back_up():
    modules, floors = application(), house()
    wrong = [
        f"{module} imports {other}"
        for module, file in modules.items()
        for other in sorted(imported_modules(file, modules))
        if place(other) != place(module) and floors[place(other)] >= floors[place(module)]
    ]
    assert wrong == []


def test_no_files_of_a_room_import_each_other_in_a_circle():
    from graphlib import CycleError, TopologicalSorter

    modules = application()
    circles = []
    for room in {place(module) for module in modules}:
        inside = {name for name in modules if place(name) == room}
        try:
            TopologicalSorter({name: imported_modules(modules[name], modules) & inside for name in inside}).prepare()
        except CycleError as circle:
            circles.append(" -> ".join(circle.args[1]))
    assert circles == []


def test_each_file_name_of_the_application_stands_once():
    repeated_by_convention = {"__init__", "__main__", "nodes", "pipeline"}
    files: dict[str, list[str]] = {}
    for file in sorted(APPLICATION.rglob("*.py")):
        files.setdefault(file.stem, []).append(str(file.relative_to(APPLICATION)))
    assert [same for stem, same in files.items() if len(same) > 1 and stem not in repeated_by_convention] == []


def test_files_and_functions_of_the_application_are_short():
    long = []
    for file in sorted(APPLICATION.rglob("*.py")):
        text = file.read_text()
        if text.count("\n") > 300:
            long.append(f"{file.relative_to(APPLICATION)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(
                    f"{file.relative_to(APPLICATION)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
                )
    assert long == []
