"""Generators on the latents of an encoder: latents in shards, a diffusion transformer, its samples, their quality."""
