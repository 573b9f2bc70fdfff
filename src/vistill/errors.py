"""The one exception that means: the user can fix this, and the message says how."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, field or value.

    The command line prints the message without a traceback and exits with code 2.
    """
