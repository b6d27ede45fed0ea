"""Single-step diffusion decoder: latents to pixels in one flow-matching step."""
