"""What the world does to a pipeline, done on purpose: `python -m soak` counts what is survived."""
