"""Cached lineage: each artefact has a record of its origin, and the runner skips every node that is up to date.

Nodes use `current_fingerprint()` and `state_folder()`, exported here. A project uses
`ssdd.lineage.runner.LineageRunner` and `ssdd.lineage.project_rules.ProjectRules`. A reader of results uses
`ssdd.lineage.lineage_tree.describe(path)`, which is the command `ssdd lineage`.
"""

# Only these two are imported here, and neither imports Kedro: worker processes import this package too.
from ssdd.lineage.running_node import current_fingerprint
from ssdd.lineage.state_folders import state_folder

__all__ = ["current_fingerprint", "state_folder"]
