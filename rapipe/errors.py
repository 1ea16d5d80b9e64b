"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """A mistake in parameters or data, told in one sentence.

    The sentence names the value, the place and the choices. Commands print it
    without a traceback and exit with code 2.
    """
