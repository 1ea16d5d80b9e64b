"""The one exception for mistakes a user can mend."""

import errno

OF_THE_DISK = frozenset(
    (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    )
)
"""Errors of the operating system that come from where a file lies, so that a user can mend them."""


class UserError(Exception):
    """A mistake in parameters or data, told in one sentence.

    The sentence names the value, the place and the choices. Commands print it
    without a traceback and exit with code 2.
    """
