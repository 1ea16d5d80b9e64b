"""What `dvc repro` runs for the stage initialise."""

from rapipe.pipeline import initialise
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(initialise.run)
