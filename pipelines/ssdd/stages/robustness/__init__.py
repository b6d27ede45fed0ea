"""Decoders on latents with noise."""
