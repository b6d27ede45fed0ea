"""`ssdd info`: describes a checkpoint or a file of latents."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssdd.commands import options

if TYPE_CHECKING:
    from torch import Tensor

    from ssdd.imaging.latent_files import LatentHeader
    from ssdd_decoder.checkpoint import Contents


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

    from ssdd.generation.sharded_latents import ShardedLatents, is_sharded
    from ssdd.imaging.latent_files import read_header
    from ssdd_decoder import checkpoint, sources

    header, path = None, Path(file)
    if is_sharded(path):
        header = ShardedLatents(path).header
    else:
        path = sources.resolve(file, "ssdd.safetensors")
        with suppress(OSError):  # raised again by the reader of checkpoints, whose message is about checkpoints
            header = read_header(path)
    facts = _of_latents(header) if header is not None else _of_checkpoint(checkpoint.read(path))
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


def _of_checkpoint(contents: "Contents") -> dict[str, str]:
    from ssdd.files import sha256_file

    parts = _parts(contents)
    facts = {
        "sha256": sha256_file(contents.file),
        "content": "intact: it matches the hash in its header"
        if contents.checked
        else "not checked: its header has no hash",
        "holds": " and ".join(parts) or "neither an encoder nor a decoder known here",
        "tensors": _count(contents.tensors),
        **parts,
    }
    others = {key: value for key, value in contents.metadata.items() if key != "format"}
    return facts | ({"header": _pairs(others)} if others else {})


def _parts(contents: "Contents") -> dict[str, str]:
    """Describes the encoder and the decoder, where the file holds them."""
    from dataclasses import asdict

    from ssdd.encoders import encoder_of
    from ssdd_decoder import CheckpointError, Decoder

    found: dict[str, str] = {}
    networks: dict[str, Callable[[Any], Any]] = {"encoder": encoder_of, "decoder": Decoder.from_contents}
    for part, make in networks.items():
        # Loaded, and not only described by the header: a file that does not fit its own header is an error here, too.
        try:
            network = make(contents)
        except CheckpointError:
            if part in contents.config:
                raise
            continue  # another project's file, say, whose decoder is unknown here
        config = asdict(network.config)
        space = f"f{network.config.downscale}c{network.config.latent_channels}"
        found[part] = f"{space}, {_count(dict(network.named_parameters()))}; {_pairs(config)}"
    return found


def _count(tensors: "Mapping[str, Tensor]") -> str:
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
