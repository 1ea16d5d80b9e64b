"""What dvc.yaml runs as the stages train-*: BACKBONE RETRIEVAL SEED."""

from rapipe.pipeline import train
from rapipe.pipeline.entry import stage_of_variant

if __name__ == "__main__":
    stage_of_variant(train.run)
