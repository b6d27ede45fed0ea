"""Statistics of the latents."""
