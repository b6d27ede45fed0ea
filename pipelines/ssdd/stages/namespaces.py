"""The namespace of a stage, which Kedro-Viz draws as one box with all datasets and parameters outside it; its nodes."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from ssdd.lineage.ranks import TAG
from ssdd.lineage.side_by_side import TAG as TRAINING


def stage(name: str, *nodes: Node) -> Pipeline:
    """Puts nodes into the namespace `name`; their datasets and parameters keep their names."""
    # Kedro prefixes all names that are not listed here, and the catalog entry of a prefixed dataset would not be found.
    inside = Pipeline(list(nodes))
    parameters = {item for item in inside.inputs() if item.startswith("params:")}
    return Pipeline(
        list(nodes),
        namespace=name,
        inputs=set(inside.inputs()) - parameters,
        outputs=inside.outputs(),
        parameters=parameters,
        prefix_datasets_with_namespace=False,
    )


def joint_node(function: Callable[..., Any], inputs: list[str], outputs: str | list[str], *tags: str) -> Node:
    """Makes a node of the function's name that all ranks of a launcher run together."""
    return Node(function, inputs, outputs, name=function.__name__, tags=[TAG, *tags])


def training_node(function: Callable[..., Any], inputs: list[str], outputs: list[str]) -> Node:
    """Makes a joint node that trains; its last inputs are the parameters that all training stages take."""
    shared = ["params:data", "params:pretrained_networks", "params:runtime"]
    return joint_node(function, [*inputs, *shared], outputs, TRAINING)
