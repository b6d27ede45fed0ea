"""Models on held-out images: periodic and final evaluation, reference and latent statistics."""
