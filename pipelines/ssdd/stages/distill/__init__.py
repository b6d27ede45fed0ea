"""Distillation: a student learns to make in one step the image that its teacher makes in several."""
