"""A stage as a box in Kedro-Viz: one namespace, with all data sets and parameters outside it."""

from kedro.pipeline import Node, Pipeline


def stage(name: str, *nodes: Node) -> Pipeline:
    """Puts nodes into the namespace `name`; their data sets and parameters keep their names."""
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
