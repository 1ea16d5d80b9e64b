"""What dvc.yaml runs as the stage corpus."""

from rapipe.pipeline import corpus
from rapipe.pipeline.entry import stage

stage(corpus.run)
