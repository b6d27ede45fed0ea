"""Image encoders of latent diffusion: image to posterior to latent."""
