"""Training: configuration, the loop, and the stages built on it."""
