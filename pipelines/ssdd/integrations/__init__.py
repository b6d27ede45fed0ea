"""Other people's formats: diffusers, exported graphs, the Hugging Face hub, ComfyUI. Each is imported on demand."""
