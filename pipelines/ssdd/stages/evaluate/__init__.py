"""Teacher and student, judged on held-out images."""
