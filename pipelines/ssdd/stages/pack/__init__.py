"""A packed copy of the images."""
