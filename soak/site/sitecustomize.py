"""Python imports this by itself where the folder is in its path: see `soak.dying`."""

import sys

if any(word.startswith("stages.") for word in sys.orig_argv):
    from soak import dying

    dying.install()
