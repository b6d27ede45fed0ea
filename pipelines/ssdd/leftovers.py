"""What a killed process leaves half-written: its next run removes it."""

from ssdd.files import TEMPORARY_SUFFIX

LEFTOVERS = (f".*{TEMPORARY_SUFFIX}*", ".tmp??????")  # patterns of names: ours, and those of safetensors' own writer
