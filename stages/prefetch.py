"""What dvc.yaml runs as the stage prefetch."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import prefetch
        from rapipe.pipeline.entry import stage

        stage(prefetch.run)
