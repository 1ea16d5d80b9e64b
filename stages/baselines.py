"""What dvc.yaml runs as the stage baselines."""

from rapipe.pipeline.running.exit_codes import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        from rapipe.pipeline import baselines
        from rapipe.pipeline.running.stage import run_stage

        run_stage(baselines.run)
