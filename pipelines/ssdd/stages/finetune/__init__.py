"""Stage 2: the decoder is trained further, at the resolution of use; the result is the teacher."""
