"""The teacher's several steps, learnt by a student as one."""
