"""Python imports this by itself where the folder is in its path: see `tests.faults.dying`."""

import sys

if any(word.startswith("stages.") for word in sys.orig_argv):
    from tests.faults import dying

    dying.install("stage")
elif any(word.endswith("/dvc") for word in sys.orig_argv[:2]):
    from tests.faults import dying

    dying.install("dvc")
