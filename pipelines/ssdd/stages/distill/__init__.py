"""Distillation: a student learns the teacher's several steps as one."""
