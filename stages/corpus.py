"""What dvc.yaml runs as the stage corpus."""

from rapipe.pipeline import corpus
from rapipe.pipeline.entry import stage

if __name__ == "__main__":  # processes that decode images import this file again
    stage(corpus.run)
