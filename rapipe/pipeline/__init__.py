"""The verbs: one file a stage, each `run(params)`: read, compute, write, nothing else."""
