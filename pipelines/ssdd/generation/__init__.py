"""Latents in shards, for generators: writing, reading, and the arrays that other trainers expect."""
