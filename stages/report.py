"""What dvc.yaml runs as the stage report."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import report
        from rapipe.pipeline.entry import stage

        stage(report.run)
