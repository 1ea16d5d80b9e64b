"""What dvc.yaml runs as the stage prefetch."""

from rapipe.pipeline import prefetch
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(prefetch.run)
