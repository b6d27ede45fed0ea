"""Speed, memory and arithmetic of decoders, side by side in one process."""
