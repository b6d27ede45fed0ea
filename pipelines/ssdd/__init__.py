"""SSDD: single-step diffusion decoder."""
