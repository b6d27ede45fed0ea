"""The student as a file for others, with its card."""
