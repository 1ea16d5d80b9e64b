"""What the world does to a pipeline, done on purpose: `python -m tests.faults` counts what is survived."""
