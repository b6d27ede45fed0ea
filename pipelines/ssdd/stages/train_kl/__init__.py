"""Decoders for the comparison, trained by regression on the frozen encoder: the KL-VAE's, and SSDD's called once."""
