"""What dvc.yaml runs as the stage embed."""

from rapipe.pipeline import embed
from rapipe.pipeline.entry import stage

if __name__ == "__main__":
    stage(embed.run)
