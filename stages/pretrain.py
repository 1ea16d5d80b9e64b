"""What dvc.yaml runs as the stage pretrain."""

from rapipe.pipeline import pretrain
from rapipe.pipeline.entry import stage

stage(pretrain.run)
