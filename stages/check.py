"""What dvc.yaml runs as the stage check."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import check
        from rapipe.pipeline.entry import stage

        stage(check.run)
