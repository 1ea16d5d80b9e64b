"""What dvc.yaml runs as the stages evaluate-*: BACKBONE RETRIEVAL SEED."""

from rapipe.pipeline.running.exit_codes import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        from rapipe.pipeline import evaluate
        from rapipe.pipeline.running.stage import run_variant_stage

        run_variant_stage(evaluate.run)
