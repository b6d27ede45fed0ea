"""A diffusion transformer on the latents of the encoder."""
