"""The facts of `ssdd doctor`: versions, machine, optional parts, pretrained networks, project, and what is wrong.

No fact holds a host's, a user's or a folder's name, so that a report can be published; paths are facts of their own.
"""

import getpass
import importlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ssdd.hardware import processor
from ssdd.model_files import enclosing_project
from ssdd.runs import data_folder, known_runs

OURS = ("ssdd", "ssdd-encoder", "ssdd-decoder", "ssdd-metrics")
ENOUGH_DISK, ENOUGH_MEMORY = 2e9, 2e9  # bytes; a quickstart takes as many of both
VARIABLES = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "SSDD_TRACEBACK")
NO_EXTRA = ""


def diagnosis(paths: bool = False) -> dict[str, Any]:
    """Returns all facts, ready for JSON; `problems` are sentences that say what to do.

    Args:
        paths: add where the packages, the networks and the project lie.
    """
    torch, fault = _import("torch")
    found: dict[str, Any] = {
        "versions": versions(),
        "system": {"platform": platform.platform(), "python": platform.python_version()},
        "processor": _processor(torch),
        "gpu": _gpu(torch),
        "free": _free(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "parts": parts(),
        "networks": {name: str(file) if paths else True for name, file in _networks().items() if file is not None},
        "project": _project(),
    }
    if paths:
        found["paths"] = {"ssdd": str(_home_of("ssdd")), "project": str(enclosing_project(Path.cwd()) or "")}
    return found | {"problems": [without_names(line) for line in _problems(found, fault)]}


def versions() -> dict[str, str]:
    """Returns the versions of this project's packages and of everything that they can need, where installed."""
    names = {requirement.name for owner in OURS for _, requirement in _requirements(owner)}
    found = {name: _version(name) for name in (*OURS, *sorted(names - set(OURS)))}
    return {name: release for name, release in found.items() if release}


def parts() -> dict[str, list[str]]:
    """Returns each optional part (`package[extra]`) of the installed packages, with what it lacks."""
    found: dict[str, list[str]] = {}
    for owner in OURS:
        for extra, requirement in _requirements(owner):
            if extra != NO_EXTRA:
                lacks = found.setdefault(f"{owner}[{extra}]", [])
                lacks += [str(requirement)] if _lacks(requirement) else []
    return found


def _requirements(owner: str) -> Iterator[tuple[str, Requirement]]:
    """The extra, or NO_EXTRA, and each requirement of an installed package."""
    try:
        lines = requires(owner) or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", marker)
        requirement.marker = None
        yield extra[1] if extra else NO_EXTRA, requirement


def _lacks(requirement: Requirement) -> bool:
    release = _version(requirement.name)
    return release is None or not requirement.specifier.contains(release, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import(name: str) -> tuple[Any, str]:
    """Returns a module, or None with the reason."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # a broken installation raises anything
        return None, f"{type(error).__name__}: {error}"


def _processor(torch: Any) -> dict[str, Any]:
    """Name, cores, threads and instruction sets; the last two only where torch can be imported."""
    found: dict[str, Any] = {"name": processor(), "architecture": platform.machine(), "cores": os.cpu_count()}
    if torch is None:
        return found
    return found | {
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)()),
    }


def _gpu(torch: Any) -> dict[str, Any]:
    """The GPUs of the machine by their driver, and those that torch can use."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    usable = torch is not None and torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if usable else []
    return {"present": said.strip().splitlines(), "usable": names, "cuda": torch.version.cuda if torch else None}


def _free() -> dict[str, int]:
    """Free and total bytes of the working folder's disk and of the memory."""
    disk = shutil.disk_usage(Path.cwd())
    found = {"disk": disk.free, "disk_total": disk.total}
    psutil, _ = _import("psutil")
    if psutil is not None:
        memory = psutil.virtual_memory()
        found |= {"memory": memory.available, "memory_total": memory.total}
    return found


def _networks() -> dict[str, Path | None]:
    """Pretrained network -> its file in the usual place, unchecked; None where there is none."""
    pretrained, _ = _import("ssdd_metrics.pretrained")
    return {name: network.held() for name, network in pretrained.NETWORKS.items()} if pretrained else {}


def _project() -> dict[str, Any] | None:
    folder = enclosing_project(Path.cwd())
    if folder is None:
        return None
    data = data_folder(folder)
    own = folder / "pipelines" / "ssdd"
    return {
        "conf": (folder / "conf" / "base").is_dir(),
        "runs": len(known_runs(folder)),
        "writable": os.access(data if data.exists() else folder, os.W_OK),
        "source_is_used": not own.is_dir() or own.resolve() == _home_of("ssdd").resolve(),
    }


def _home_of(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__)).parent


def _problems(found: dict[str, Any], fault: str) -> Iterator[str]:
    """What is wrong, in sentences that say what to do."""
    if fault:
        yield f"torch cannot be imported ({fault}): install it again"
    own = {name: release for name, release in found["versions"].items() if name in OURS}
    if len(set(own.values())) > 1:
        together = ", ".join(f"{name} {release}" for name, release in own.items())
        yield f"the packages of this project are of different versions ({together}): install all from one release"
    yield from _problems_of_the_packages()
    yield from _problems_of_the_machine(found)
    if found["project"]:
        yield from _problems_of_the_project(found["project"], found["versions"])


def _problems_of_the_packages() -> Iterator[str]:
    told = set()
    for owner in OURS:
        for extra, needed in _requirements(owner):
            release = _version(needed.name)
            # a library that only an optional part needs may be missing, but not too old
            if needed.name not in told and _lacks(needed) and (release or extra == NO_EXTRA):
                told.add(needed.name)
                part = f"{owner}[{extra}]" if extra else owner
                yield f"{part} needs {needed}, found {release or 'none'}: pip install '{needed}'"


def _problems_of_the_machine(found: dict[str, Any]) -> Iterator[str]:
    gpu, free, chip = found["gpu"], found["free"], found["processor"]
    if gpu["present"] and not gpu["usable"] and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        why = "this torch is a build without CUDA" if gpu["cuda"] is None else f"it was built for CUDA {gpu['cuda']}"
        yield f"there is a GPU, but torch cannot use it ({why}): install a torch that fits the driver"
    if chip.get("threads", 0) > (chip["cores"] or 1):
        yield f"torch uses {chip['threads']} threads on {chip['cores']} cores, which is slow: lower OMP_NUM_THREADS"
    for what, least in (("disk", ENOUGH_DISK), ("memory", ENOUGH_MEMORY)):
        if free.get(what, least) < least:
            yield f"{free[what] / 1e9:.1f} GB of {what} are free: a run of the quickstart needs about {least / 1e9:.0f}"


def _problems_of_the_project(project: dict[str, Any], installed: dict[str, str]) -> Iterator[str]:
    if "kedro" not in installed:
        yield "this folder is a project, but kedro is not installed: pip install 'ssdd[demo]'"
    if not project["conf"]:
        yield "the project has no conf/base: take the folder conf of the repository"
    if not project["writable"]:
        yield "the project's folder data cannot be written: change its owner or its mode"
    if not project["source_is_used"]:
        yield "the command is of another installation than the project's own source: start it with `uv run`"


def without_names(text: str) -> str:
    """Returns a text with the last part alone of each path, and without the user's name."""
    text = re.sub(r"(?:[A-Za-z]:)?[\\/][^\s'\"()]*[\\/]", ".../", text)
    try:
        return re.sub(rf"\b{re.escape(getpass.getuser())}\b", "USER", text)
    except (OSError, KeyError, ImportError):  # a process may have no user
        return text
