"""Generators on the latents of an encoder: latents in shards, a diffusion transformer, its samples and their quality."""
