"""The namespace of a stage, which Kedro-Viz draws as one box, with all datasets and parameters outside it."""

from kedro.pipeline import Node, Pipeline


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
