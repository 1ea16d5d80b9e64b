"""Runs the study by experiments, each resumable; then makes tables and figures of what there is.

    python -m study encoder --preset study-cpu        the encoder and its memory
    python -m study main --preset study-cpu           an experiment; `python -m study` lists them
    python -m study main k --preset study-cpu         two; what has one network is trained at once
    python -m study report --preset study-cpu         CSV, figures and tables in results/study/

--source cifar10=FOLDER reads a source of the preset from Parquet files instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rapipe.errors import UserError
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from study.experiments import EXPERIMENTS, TASK

SCALES = ("study-cpu", "study", "tiny")


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="experiments:\n"
        + "\n".join(f"  {name:11}{experiment.about}" for name, experiment in EXPERIMENTS.items()),
    )
    parser.add_argument("experiment", nargs="+", choices=("encoder", *EXPERIMENTS, "report"))
    parser.add_argument("--preset", choices=SCALES, default="study-cpu")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--seeds", type=int, default=0, help="the first so many; 0 for all")
    parser.add_argument(
        "--retrieval", action="append", default=[], help="only this strategy, or none; repeat it"
    )
    options = parser.parse_args()
    with exit_on_user_error():
        sources = dict(map(source_of, options.source))
        from study.running import Study, make_encoder, run

        study = Study(options.preset, sources)
        if options.experiment == ["report"]:
            from study import report

            report.run(study)
            return
        check_device(options.preset)
        if options.experiment == ["encoder"]:
            make_encoder(study, TASK)
        elif {"encoder", "report"} & set(options.experiment):
            raise UserError("encoder and report stand alone; experiments may stand together")
        else:
            run(study, *options.experiment, seeds=options.seeds, retrievals=options.retrieval)


def check_device(preset: str) -> None:
    """`UserError` where the full scale would take months."""
    import torch

    if preset == "study" and not torch.cuda.is_available():
        raise UserError(
            f"--preset study needs a GPU, and torch {torch.__version__} finds none that it can use "
            "(is its driver too old for this torch?): choose study-cpu"
        )


def source_of(text: str) -> tuple[str, Path]:
    """`NAME=PATH`; `UserError` if it is something else."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise UserError(f"--source {text!r}: write NAME=PATH, such as cifar10=/data/cifar10")
    return name, Path(path)


if __name__ == "__main__":
    main()
