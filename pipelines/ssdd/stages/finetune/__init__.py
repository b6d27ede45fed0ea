"""Stage 2: the decoder goes on, at the resolution of use; its result is the teacher."""
