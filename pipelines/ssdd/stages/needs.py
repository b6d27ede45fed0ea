"""What nodes need besides their inputs: pretrained judges, looked for before the first of them runs."""

from collections.abc import Iterable

from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from ssdd.parameters import JudgeFiles


def check_judges(nodes: Iterable[Node], catalog: CatalogProtocol) -> None:
    """Finds, or downloads, and checks the judges that the parameters of nodes ask.

    Raises:
        ValueError: one is nowhere or not the expected one; says which file to put where.
    """
    parameters = {name for node in nodes for name in node.inputs if name.startswith("params:")}
    needed = {judge for name in parameters for judge in getattr(catalog.load(name), "judges", ())}
    if needed:
        from ssdd.judges import find_judges

        find_judges(sorted(needed), JudgeFiles.model_validate(catalog.load("params:judges")))
