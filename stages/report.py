"""What dvc.yaml runs as the stage report."""

from rapipe.pipeline import report
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(report.run)
