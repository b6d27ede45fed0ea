"""The fingerprint of a node: everything its result follows from, in code, parameters, inputs, packages and catalog."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.catalog_entries import (
    artefact_path,
    base_name,
    catalog_config,
    get_dataset,
    in_memory,
    is_parameter,
    lineage_token,
)
from ssdd.lineage.code_hashes import CodeHasher
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.loaded_code import remember
from ssdd.lineage.packages import counted
from ssdd.lineage.parameter_values import Parameters, digest, plain, sort_parameters
from ssdd.lineage.stamps import Identity, read_stamp, stamp_path

PENDING = "(pending)"


@dataclass(frozen=True)
class Ingredients:
    """Everything that a node would use if it ran now.

    Attributes:
        identity: what its result follows from; an input that is not known yet has the hash `PENDING`.
        parameters: all parameters that it takes.
        files: persisted input -> its file.
    """

    identity: Identity
    parameters: Parameters
    files: dict[str, str]

    @property
    def pending(self) -> list[str]:
        """Inputs that an earlier node may still change."""
        return [name for name, content in self.identity.inputs.items() if content == PENDING]


@dataclass(frozen=True)
class _Fixed:
    """The ingredients that stay the same for a whole run, in the fields of `Identity`; only inputs change."""

    function: str
    code: dict[str, str]
    parameters: Parameters
    packages: dict[str, str]
    catalog: dict[str, Any]


class Fingerprints:
    """Gathers the ingredients of a pipeline's nodes.

    Args:
        pipeline: the nodes.
        catalog: their datasets.
        hashes: content hashes.
        package: the Kedro package, whose code counts.

    Raises:
        ValueError: a node's function has no name, or its code is no valid Python.
    """

    def __init__(
        self, pipeline: Pipeline, catalog: CatalogProtocol, hashes: Hashes, package: str | None = None
    ) -> None:
        self._catalog = catalog
        self._hashes = hashes
        # All at once, and not when a node is asked for: so the syntax trees are freed before the first node runs.
        hasher = CodeHasher(package, hashes)
        self._code = {node.name: _hash_code(node, hasher) for node in pipeline.nodes}
        hasher.remember()
        self._producers = {base_name(name): node for node in pipeline.nodes for name in node.outputs}
        self._fixed: dict[str, _Fixed] = {}

    def of(self, node: Node, pending: set[str] | frozenset[str] = frozenset()) -> Ingredients:
        """Returns a node's ingredients, with its inputs as they are now.

        Args:
            pending: datasets (base names) whose content is not known yet.

        Raises:
            ValueError: an input is missing or cannot be followed.
            OSError: an input cannot be read.
        """
        # Everything except the inputs is gathered once for each run: code that is edited during a run is not the code
        # that runs.
        if node.name not in self._fixed:
            self._fixed[node.name] = self._gather(node)
        fixed = self._fixed[node.name]
        inputs: dict[str, str] = {}
        files: dict[str, str] = {}
        for name in node.inputs:
            if is_parameter(name):
                continue
            inputs[name] = PENDING if base_name(name) in pending else self._content(name)
            dataset = get_dataset(self._catalog, name)
            if not in_memory(dataset) and lineage_token(dataset) is None:
                files[name] = str(artefact_path(dataset, name))
        identity = Identity(fixed.function, fixed.code, fixed.parameters.core, inputs, fixed.packages, fixed.catalog)
        return Ingredients(identity, fixed.parameters, files)

    def output_files(self, node: Node) -> dict[str, Path | None]:
        """Returns the node's persisted outputs and their files."""
        datasets = {name: get_dataset(self._catalog, name) for name in node.outputs}
        return {name: artefact_path(item, name) for name, item in datasets.items() if not in_memory(item)}

    def in_memory_outputs(self, node: Node) -> list[str]:
        """Returns the node's outputs that end with the session."""
        return [name for name in node.outputs if in_memory(get_dataset(self._catalog, name))]

    def hash_file(self, path: Path | None) -> str | None:
        """Returns the content hash of an output, None where it is missing."""
        return None if path is None else self._hashes.of(path)

    def _gather(self, node: Node) -> _Fixed:
        code, packages = self._code[node.name]
        remember(code)
        parameters = sort_parameters({name: self._catalog.load(name) for name in node.inputs if is_parameter(name)})
        names = [name for name in (*node.inputs, *node.outputs) if not is_parameter(name)]
        datasets = {name: get_dataset(self._catalog, name) for name in names}
        # An input's entry counts too: `load_args` changes what the node receives though the file stays the same.
        catalog = {name: catalog_config(item) for name, item in datasets.items() if not in_memory(item)}
        function = _unwrapped(node)
        return _Fixed(f"{function.__module__}:{function.__qualname__}", code, parameters, counted(packages), catalog)

    def _content(self, name: str) -> str:
        dataset = get_dataset(self._catalog, name)
        producer = self._producers.get(base_name(name))
        if in_memory(dataset):
            if producer is None:
                return digest(plain(dataset.load()))
            # The data need not exist for this: equal identities make equal data, so the producer's identity stands for
            # its output, and the producer runs only if a consumer does.
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
        if stamp is not None and stamp.sha256 != content:  # no node of this pipeline would make it again
            raise ValueError(
                f"expected {name!r} as {stamp.node!r} made it, {path} was altered since: run {stamp.node!r} again, "
                f"or remove {stamp_path(path).name} next to it to use it as it is"
            )
        return content


def _hash_code(node: Node, hasher: CodeHasher) -> tuple[dict[str, str], set[str]]:
    try:
        return hasher.hash(node.func)
    except ValueError as error:
        raise ValueError(f"node {node.name!r}: {error}") from None


def _unwrapped(node: Node) -> Any:
    function = node.func
    while hasattr(function, "func") and not hasattr(function, "__qualname__"):  # functools.partial
        function = function.func
    return function


def _remedy(producer: Node | None, name: str) -> str:
    if producer is not None:
        return f"run the node {producer.name!r}"
    return f"put it there, or run a pipeline that makes {name!r}"
