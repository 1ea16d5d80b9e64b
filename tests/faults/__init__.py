"""What the world does to a pipeline, done on purpose: see `python -m tests.faults`."""
