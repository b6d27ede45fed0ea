"""The stages, each a folder with `nodes.py` (functions) and `pipeline.py` (names)."""
