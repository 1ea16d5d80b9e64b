"""What dvc.yaml runs as the stage corpus."""

if __name__ == "__main__":  # the processes that decode images import this file, and need no more
    from rapipe.pipeline.told import told

    with told():
        from rapipe.pipeline import corpus
        from rapipe.pipeline.entry import stage

        stage(corpus.run)
