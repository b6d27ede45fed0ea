"""Image reconstruction metrics that say how they were computed."""
