"""What dvc.yaml runs as the stage audit."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import audit
        from rapipe.pipeline.entry import stage

        stage(audit.run)
