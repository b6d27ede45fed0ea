"""Speed, memory and quality of decoders, side by side."""
