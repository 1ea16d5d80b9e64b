"""What dvc.yaml runs as the stage pretrain."""

from rapipe.pipeline import pretrain
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(pretrain.run)
