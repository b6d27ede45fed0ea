"""Encoder and decoder, trained jointly."""
