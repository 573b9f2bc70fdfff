"""What ends a command with one sentence: a mistake of the user, or a fault met at work."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, field or value.

    The command line prints the message without a traceback and exits with code 2.
    """


class Failure(Exception):
    """Work that was under way cannot go on; the message says where and why.

    The command line prints it without a traceback and exits with code 1.
    """
