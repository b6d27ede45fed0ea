"""Evaluation on held-out images, periodic and final, and the statistics of images and latents."""
