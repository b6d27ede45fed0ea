"""What the `ssdd` command does with people's files: pictures of any size in, latents or pictures out."""
