"""What `dvc repro` runs for the stage initialise."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import initialise
        from rapipe.pipeline.entry import stage

        stage(initialise.run)
