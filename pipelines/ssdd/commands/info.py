"""`ssdd info`: describes a checkpoint or a file of latents."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssdd.commands import options

if TYPE_CHECKING:
    from ssdd.imaging.latent_header import LatentHeader
    from ssdd_decoder.header import Header

_FLOATS = {"float64", "float32", "float16", "bfloat16"}


@click.command(short_help="Describe a checkpoint or latents.")
@options.held
def info(file: str) -> None:
    """Describe FILE: a checkpoint (or its folder, or RUN, RUN@best, demo), or latents (a file, a shard, or its folder).

    For a checkpoint: its parts, their configurations, parameter counts and number formats, whether its content matches
    the hash in its header, and the run that made it.

    \b
    ssdd info data/quickstart/models/distilled.safetensors
    ssdd info quickstart@best
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssdd.imaging.latent_header import is_sharded, read_header
    from ssdd_decoder import sources

    header, path = None, Path(file)
    if is_sharded(path):
        from ssdd.generation.sharded_latents import ShardedLatents

        header = ShardedLatents(path).header
    else:
        path = sources.resolve(file, "ssdd.safetensors")
        with suppress(OSError):  # raised again by the reader of checkpoints, whose message is about checkpoints
            header = read_header(path)
    facts = _of_latents(header) if header is not None else _of_checkpoint(path)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    for name, value in {"file": str(path), **facts, **_provenance(path)}.items():
        table.add_row(name, Text(options.printable(value) if "\n" not in value else value))
    Console().print(table)


def _of_latents(header: "LatentHeader") -> dict[str, str]:
    return {
        "holds": f"latents of {options.count(len(header.sizes))}, f{header.downscale}c{header.latent_channels}",
        "made by": f"{header.model.get('file')} (sha256 {header.model.get('sha256')}), in {header.precision}",
        "encoder": _pairs(header.encoder),
        "version": header.version,
    }


def _of_checkpoint(path: Path) -> dict[str, str]:
    from ssdd.files import sha256_file
    from ssdd_decoder.header import read

    header = read(path, framework="np")  # another one would import torch
    parts = _described(header)
    if parts is None:
        header, parts = _loaded(path)
    facts = {
        "sha256": sha256_file(path),
        "content": "intact: it matches the hash in its header"
        if header.checked
        else "not checked: its header has no hash",
        "holds": " and ".join(parts) or "neither an encoder nor a decoder known here",
        "tensors": _count(header.tensors),
        **parts,
    }
    others = {key: value for key, value in header.metadata.items() if key != "format"}
    return facts | ({"header": _pairs(others)} if others else {})


def _described(header: "Header") -> dict[str, str] | None:
    """Describes encoder and decoder by the header alone; None where that does not suffice."""
    from dataclasses import replace

    from ssdd_decoder import CheckpointError, DecoderConfig
    from ssdd_encoder import EncoderConfig

    kinds = {"encoder": EncoderConfig, "decoder": DecoderConfig}
    # A file that matches its hash is as its network wrote it, and so fits its header: torch need not be imported.
    if not header.checked or not header.config or header.config.keys() - kinds:
        return None
    found: dict[str, str] = {}
    for part, kind in kinds.items():
        if part not in header.config:
            continue
        try:
            config, tensors = header.parse_config(part, kind), header.select(part, ())
        except CheckpointError:  # a network of diffusers, or a file that is refused when it is loaded
            return None
        numbers = {tensor.dtype for tensor in tensors.values()}
        if not numbers <= _FLOATS:  # refused then, too
            return None
        if len(numbers) > 1:  # then the network has the type that holds them all
            dtype = "float64" if "float64" in numbers else "float32"
            tensors = {name: replace(tensor, dtype=dtype) for name, tensor in tensors.items()}
        found[part] = _part(config, tensors)
    return found


def _loaded(path: Path) -> tuple["Header", dict[str, str]]:
    """Loads encoder and decoder to describe them: a file that does not fit its own header is an error here, too."""
    from ssdd.encoders import encoder_of
    from ssdd_decoder import CheckpointError, Decoder
    from ssdd_decoder.checkpoint import read

    contents = read(path)
    found: dict[str, str] = {}
    networks: dict[str, Callable[[Any], Any]] = {"encoder": encoder_of, "decoder": Decoder.from_contents}
    for part, make in networks.items():
        try:
            network = make(contents)
        except CheckpointError:
            if part in contents.config:
                raise
            continue  # another project's file, say, whose decoder is unknown here
        found[part] = _part(network.config, dict(network.named_parameters()))
    return contents, found


def _part(config: Any, tensors: Mapping[str, Any]) -> str:
    from dataclasses import asdict

    return f"f{config.downscale}c{config.latent_channels}, {_count(tensors)}; {_pairs(asdict(config))}"


def _count(tensors: Mapping[str, Any]) -> str:
    kinds = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    return f"{sum(tensor.numel() for tensor in tensors.values()):,} parameters, {', '.join(kinds)}"


def _provenance(path: Path) -> dict[str, str]:
    from ssdd.lineage.lineage_tree import facts
    from ssdd.lineage.stamps import read_stamp, stamp_path

    stamp = read_stamp(path)
    if stamp is None:
        damaged = stamp_path(path).exists()
        return {"lineage": "its stamp is damaged" if damaged else f"none beside it ({stamp_path(path).name})"}
    known = facts(path, stamp)
    kept = {name: known[name] for name in ("made by", "run", "commit", "started", "inputs")}
    return {**kept, "lineage": f"for more: ssdd lineage {path}"}


def _pairs(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in content.items())
