"""What dvc.yaml runs as the stage report."""

from rapipe.pipeline import report
from rapipe.pipeline.entry import stage

stage(report.run)
