"""Cached lineage: what made each artefact, and which nodes are stale.

From a node: `current_fingerprint()`, `state_folder()`. For projects: `LineageRunner`, `StartingPoint`. For
readers: `ssdd.lineage.description.describe(path)`.
"""

from ssdd.lineage.running_node import Current, current, current_fingerprint, running, state_folder

__all__ = ["Current", "current", "current_fingerprint", "running", "state_folder"]
