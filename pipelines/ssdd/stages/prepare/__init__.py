"""Images to an index of the usable ones."""
