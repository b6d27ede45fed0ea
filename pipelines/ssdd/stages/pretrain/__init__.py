"""Stage 1: a decoder on the frozen encoder."""
