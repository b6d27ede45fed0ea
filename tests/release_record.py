"""What a release promises: its public interface, and small files in its formats, in `tests/data/releases/<version>`.

    uv run --group docs python tests/release_record.py

writes the record of the present version, once, when it is released. test_versions.py compares later code with all
records.
"""

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "tests" / "data" / "releases"
SOURCES = {
    "ssdd-encoder": ROOT / "packages/ssdd-encoder/src",
    "ssdd-decoder": ROOT / "packages/ssdd-decoder/src",
    "ssdd-metrics": ROOT / "packages/ssdd-metrics/src",
    "ssdd": ROOT / "pipelines",
}
# Package -> its public modules. Where one has an `__all__`, that is public; else the names without underscore.
PUBLIC = {
    "ssdd-encoder": ("ssdd_encoder",),
    "ssdd-decoder": (
        "ssdd_decoder",
        "ssdd_decoder.flow",
        "ssdd_decoder.times",
        "ssdd_decoder.losses",
        "ssdd_decoder.distill",
        "ssdd_decoder.adversarial",
    ),
    "ssdd-metrics": ("ssdd_metrics", "ssdd_metrics.registry"),
    "ssdd": ("ssdd",),
}


_KINDS = ("staticmethod", "classmethod")
_OPERATORS = ("__init__", "__call__", "__getitem__", "__add__")


def present_version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def stubs() -> dict[str, str]:
    """Package -> its public interface, as a stub in which each public name stands where its module stands."""
    import griffe

    loader = griffe.GriffeLoader(search_paths=[str(folder) for folder in SOURCES.values()])
    loaded = {module: loader.load(module) for modules in PUBLIC.values() for module in modules}
    loader.resolve_aliases(implicit=False)
    return {package: "\n".join(_package(modules, loaded)) + "\n" for package, modules in PUBLIC.items()}


def _package(modules: tuple[str, ...], loaded: dict[str, Any]) -> Iterator[str]:
    yield "from typing import Any"
    for name in modules:
        module = loaded[name]
        flat = name.replace(".", "_")
        public = module.exports or [n for n, m in module.members.items() if not (n.startswith("_") or m.is_alias)]
        yield f"\nclass {flat}:"
        for member in sorted(map(str, public)):
            found = module.members[member]
            yield from _stub(found.final_target if found.is_alias else found, member, "    ")


def _stub(found: Any, name: str, indent: str) -> Iterator[str]:
    if found.is_class:
        yield f"{indent}class {name}:"
        yield from _members(found, indent + "    ")
    elif found.is_function:
        yield from (f"{indent}@{line.value}" for line in found.decorators if str(line.value) in _KINDS)
        yield f"{indent}def {name}({_parameters(found.parameters)}): ..."
    else:
        yield f"{indent}{name}: Any"


def _members(found: Any, indent: str) -> Iterator[str]:
    kept = 0
    for name, member in sorted(found.members.items()):
        if member.is_alias or (name.startswith("_") and name not in _OPERATORS):
            continue
        if member.is_attribute and member.value is not None and not member.labels & {"class-attribute", "property"}:
            continue  # what a constructor keeps for itself
        kept += 1
        yield from _stub(member, name, indent)
    if not kept:
        yield f"{indent}..."


def _parameters(parameters: Any) -> str:
    """The parameters as source; defaults are only there or not, since a value may change without a break."""
    import griffe

    kinds = griffe.ParameterKind
    written: list[str] = []
    for parameter in parameters:
        if parameter.kind is kinds.keyword_only and not any(part.startswith("*") for part in written):
            written.append("*")
        star = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(parameter.kind, "")
        has_default = parameter.default is not None and not star
        written.append(f"{star}{parameter.name}" + ("=None" if has_default else ""))
    only = [number for number, parameter in enumerate(parameters) if parameter.kind is kinds.positional_only]
    if only:
        written.insert(only[-1] + 1, "/")
    return ", ".join(written)


def surface() -> list[str]:
    """Every command with its options, every parameter by its full name, and every pipeline, one on a line."""
    from ssdd.commands.group import cli
    from ssdd.pipeline_registry import PIPELINES

    lines = [
        f"command ssdd {name} {option}"
        for name, command in cli.commands.items()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    ]
    lines += [f"parameter {name}" for model in models().items() for name in _fields(*model)]
    return sorted([*lines, *(f"pipeline {name}" for name in PIPELINES)])


def models() -> dict[str, Any]:
    """Top parameter -> its type, from the functions that take it."""
    from typing import get_type_hints

    from ssdd.pipeline_registry import register_pipelines

    found: dict[str, Any] = {}
    for pipeline in register_pipelines().values():
        for node in pipeline.nodes:
            hints = get_type_hints(node.func, localns={"pandas": __import__("pandas")})
            arguments = node._inputs if isinstance(node._inputs, list) else [node._inputs]
            for argument, name in zip(node.func.__code__.co_varnames, arguments, strict=False):
                if name.startswith("params:") and "." not in name:
                    found[name.removeprefix("params:")] = hints[argument]
    return dict(sorted(found.items()))


def _fields(name: str, kind: Any) -> Iterator[str]:
    fields = getattr(kind, "model_fields", None)
    if fields is None:
        yield name
    else:
        for field, about in fields.items():
            yield from _fields(f"{name}.{field}", about.annotation)


def write_files(folder: Path) -> None:
    """Writes one small file of each format, and what reading them gives (`expected.json`)."""
    import torch
    from PIL import Image

    from ssdd import SSDD
    from ssdd.commands.group import cli
    from ssdd.lineage.stamps import Identity, Stamp, write_stamp
    from ssdd_decoder import DecoderConfig
    from ssdd_encoder import EncoderConfig
    from ssdd_metrics import Protocol, compute_references, save_references

    torch.manual_seed(0)
    small = {"base_channels": 8, "multipliers": (1, 1), "norm_groups": 4}
    shape = {"base_channels": 8, "multipliers": (1, 1), "transformer_blocks": 1, "heads": 2, "norm_groups": 4}
    model = SSDD(EncoderConfig(latent_channels=4, **small), DecoderConfig(latent_channels=4, downscale=2, **shape))
    model.save_pretrained(folder / "ssdd.safetensors")
    Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(folder / "gradient.png")
    picture, latents, checkpoint = (
        str(folder / n) for n in ("gradient.png", "latents.safetensors", "ssdd.safetensors")
    )
    cli(["encode", picture, "-o", latents, "--model", checkpoint], standalone_mode=False)
    protocol = Protocol(dataset="gradient", resolution="16x16", resize="none", crop="none", noise_seed=0, steps=1)
    images = torch.arange(2 * 3 * 16 * 16).reshape(2, 3, 16, 16).float() / 1536
    save_references(folder / "references.safetensors", compute_references([images], ["frechet_random_conv"], protocol))
    identity = Identity(function="m:f", code={}, parameters={"a": 1}, packages={}, catalog={}, inputs={})
    stamp = Stamp(dataset="gradient", node="n", sha256="0" * 64, identity=identity, extends={}, about={"run": "r"})
    write_stamp(folder / "gradient.png", stamp)
    (folder / "expected.json").write_text(json.dumps(read_files(folder), indent=1) + "\n", encoding="utf-8")


def read_files(folder: Path) -> dict[str, Any]:
    """Reads the files of a release with the present code, and returns what they hold, as numbers and texts."""
    from dataclasses import asdict

    import torch

    from ssdd import SSDD
    from ssdd.imaging.latent_files import StoredLatents
    from ssdd.lineage.stamps import read_stamp
    from ssdd_metrics import Protocol, load_references, reference_protocols

    model = SSDD.from_pretrained(folder / "ssdd.safetensors")
    stored = StoredLatents(folder / "latents.safetensors")
    z = stored["gradient.png"][None].float()
    image = model.decode(z, steps=1, noise=torch.zeros(1, 3, 2 * z.shape[2], 2 * z.shape[3]))
    protocol = Protocol(dataset="gradient", resolution="16x16", resize="none", crop="none", noise_seed=0, steps=1)
    wanted = reference_protocols(["frechet_random_conv"], protocol)
    references = load_references(folder / "references.safetensors", wanted)
    stamp = read_stamp(folder / "gradient.png")
    return {
        "latent": [round(float(value), 4) for value in z.flatten()[:16]],
        "image": [round(float(value), 4) for value in image.flatten()[:16]],
        "sizes": stored.header.sizes,
        "features": [round(float(value), 3) for value in references["frechet_random_conv"].moments.total[:8]],
        "stamp": asdict(stamp) if stamp else None,
    }


def main() -> None:
    folder = RECORDS / present_version()
    if folder.exists():
        sys.exit(f"{folder} exists: a release is recorded once; remove it if it was never published")
    folder.mkdir(parents=True)
    for package, text in stubs().items():
        (folder / f"{package}.pyi").write_text(text, encoding="utf-8")
    (folder / "surface.txt").write_text("\n".join(surface()) + "\n", encoding="utf-8")
    write_files(folder)


if __name__ == "__main__":
    main()
