"""The claim, side by side: SSDD and other decoders of the same latents in one table and three figures."""
