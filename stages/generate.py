"""What dvc.yaml runs as the stage generate."""

if __name__ == "__main__":  # the processes that decode images import this file, and need no more
    from rapipe.pipeline.running.exit_codes import exit_on_user_error

    with exit_on_user_error():
        from rapipe.pipeline import generate
        from rapipe.pipeline.running.stage import refuse_link, run_stage

        refuse_link()
        run_stage(generate.run)
