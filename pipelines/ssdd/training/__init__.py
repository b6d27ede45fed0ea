"""Training: one resumable loop, the losses of each stage, and the jobs that the stages run."""
