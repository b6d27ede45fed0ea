"""Work on users' own files for the `ssdd` command: pictures of any size in, latents or pictures out."""
