"""What a node's result follows from, gathered from code, parameters, inputs, packages and catalog entries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.artefacts import (
    artefact_path,
    base_name,
    catalog_config,
    get_dataset,
    in_memory,
    is_parameter,
    lineage_token,
)
from ssdd.lineage.code_hashes import Code
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.edited_code import remember
from ssdd.lineage.packages import counted
from ssdd.lineage.parameter_values import Parameters, digest, plain, sort_parameters
from ssdd.lineage.stamps import Identity, read_stamp, stamp_path

PENDING = "(pending)"


@dataclass(frozen=True)
class Made:
    """What a node is made of now.

    Attributes:
        identity: what its result follows from; an input that is not known yet has the hash `PENDING`.
        parameters: all that it takes.
        files: persisted input -> its file.
    """

    identity: Identity
    parameters: Parameters
    files: dict[str, str]

    @property
    def pending(self) -> list[str]:
        """Inputs that a node before it may still change."""
        return [name for name, content in self.identity.inputs.items() if content == PENDING]


class Fingerprints:
    """Gathers what the nodes of a pipeline are made of.

    Args:
        pipeline: the nodes.
        catalog: their datasets.
        hashes: content hashes.
        package: the Kedro package, whose code counts.
    """

    def __init__(
        self, pipeline: Pipeline, catalog: CatalogProtocol, hashes: Hashes, package: str | None = None
    ) -> None:
        self._catalog = catalog
        self._hashes = hashes
        self._code = Code(package)
        self._producers = {base_name(name): node for node in pipeline.nodes for name in node.outputs}
        self._reached: dict[str, tuple[dict[str, str], set[str]]] = {}

    def of(self, node: Node, pending: set[str] | frozenset[str] = frozenset()) -> Made:
        """Returns what a node is made of.

        Args:
            pending: datasets (base names) of which the content is not known yet.

        Raises:
            ValueError: an input is missing, cannot be followed, or the node's function has no name.
            OSError: an input cannot be read.
        """
        code, packages = self._code_of(node)
        values = {name: self._catalog.load(name) for name in node.inputs if is_parameter(name)}
        parameters = sort_parameters(values)
        inputs: dict[str, str] = {}
        files: dict[str, str] = {}
        config: dict[str, Any] = {}
        for name in node.inputs:
            if is_parameter(name):
                continue
            dataset = get_dataset(self._catalog, name)
            if base_name(name) in pending:
                inputs[name] = PENDING
            else:
                inputs[name] = self._content(name)
            if not in_memory(dataset):
                config[name] = catalog_config(dataset)
                if lineage_token(dataset) is None:
                    files[name] = str(artefact_path(dataset, name))
        for name in node.outputs:
            dataset = get_dataset(self._catalog, name)
            if not in_memory(dataset):
                config[name] = catalog_config(dataset)
        function = f"{_unwrapped(node).__module__}:{_unwrapped(node).__qualname__}"
        identity = Identity(function, code, parameters.core, inputs, counted(packages), config)
        return Made(identity, parameters, files)

    def output_files(self, node: Node) -> dict[str, Path | None]:
        """Returns the node's persisted outputs and their files."""
        found = {}
        for name in node.outputs:
            dataset = get_dataset(self._catalog, name)
            if not in_memory(dataset):
                found[name] = artefact_path(dataset, name)
        return found

    def in_memory_outputs(self, node: Node) -> list[str]:
        """Returns the node's outputs that end with the session."""
        return [name for name in node.outputs if in_memory(get_dataset(self._catalog, name))]

    def hash_file(self, path: Path | None) -> str | None:
        """Returns the content hash of an output, None where it is missing."""
        return None if path is None else self._hashes.of(path)

    def _code_of(self, node: Node) -> tuple[dict[str, str], set[str]]:
        if node.name not in self._reached:
            try:
                self._reached[node.name] = self._code.of(node.func)
                remember(self._reached[node.name][0])
            except ValueError as error:
                raise ValueError(f"node {node.name!r}: {error}") from None
        return self._reached[node.name]

    def _content(self, name: str) -> str:
        dataset = get_dataset(self._catalog, name)
        producer = self._producers.get(base_name(name))
        if in_memory(dataset):
            if producer is None:
                return digest(plain(dataset.load()))
            made = self.of(producer)
            return digest([made.identity.fingerprint, made.parameters.extends, name])
        token = lineage_token(dataset)
        if token is not None:
            return digest(token)
        path = artefact_path(dataset, name)
        content = self.hash_file(path)
        if path is None or content is None:
            raise ValueError(f"expected {name!r} at {path}, found nothing there: {_remedy(producer, name)}")
        stamp = read_stamp(path) if producer is None else None
        if stamp is not None and stamp.sha256 != content:  # nothing here would make it again
            raise ValueError(
                f"expected {name!r} as {stamp.node!r} made it, {path} was altered since: run {stamp.node!r} again, "
                f"or remove {stamp_path(path).name} beside it to use it as it is"
            )
        return content


def _unwrapped(node: Node) -> Any:
    function = node.func
    while hasattr(function, "func") and not hasattr(function, "__qualname__"):  # functools.partial
        function = function.func
    return function


def _remedy(producer: Node | None, name: str) -> str:
    if producer is not None:
        return f"run the node {producer.name!r}"
    return f"put it there, or run a pipeline that makes {name!r}"
