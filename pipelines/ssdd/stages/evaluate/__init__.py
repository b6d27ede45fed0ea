"""Teacher and student on held-out images."""
