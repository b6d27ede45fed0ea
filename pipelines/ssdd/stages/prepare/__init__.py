"""Images to an index of what is usable."""
