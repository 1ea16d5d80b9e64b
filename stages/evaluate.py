"""What dvc.yaml runs as the stages evaluate-*: BACKBONE RETRIEVAL SEED."""

from rapipe.pipeline.told import told

if __name__ == "__main__":
    with told():
        from rapipe.pipeline import evaluate
        from rapipe.pipeline.entry import stage_of_variant

        stage_of_variant(evaluate.run)
