"""Samples of the generator, decoded by student and teacher."""
