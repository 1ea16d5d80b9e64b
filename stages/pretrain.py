"""What dvc.yaml runs as the stage pretrain."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import pretrain
        from rapipe.pipeline.entry import stage

        stage(pretrain.run)
