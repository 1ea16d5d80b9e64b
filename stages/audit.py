"""What dvc.yaml runs as the stage audit."""

from rapipe.pipeline import audit
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(audit.run)
