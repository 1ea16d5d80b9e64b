"""What dvc.yaml runs as the stage embed."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import embed
        from rapipe.pipeline.entry import stage

        stage(embed.run)
