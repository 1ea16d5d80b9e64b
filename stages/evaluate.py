"""What dvc.yaml runs as the stages evaluate-*: BACKBONE RETRIEVAL SEED."""

from rapipe.pipeline import evaluate
from rapipe.pipeline.entry import stage_of_variant

if __name__ == "__main__":
    stage_of_variant(evaluate.run)
