"""What dvc.yaml runs as the stage evaluate."""

from rapipe.pipeline.running.exit_codes import exit_on_user_error

if __name__ == "__main__":
    with exit_on_user_error():
        from rapipe.pipeline.running.stage import run_stale_variants

        run_stale_variants("evaluate")
