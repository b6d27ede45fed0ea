"""Latents of all images, in shards."""
