"""What ends a command with one sentence: a mistake of the user, or a fault met at work."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, field or value.

    The command line prints the message without a traceback and exits with code 2.
    """


class WrongSize(UserError):
    """An input of a size that a model cannot take; the sentence names the nearest that it can."""


class Failure(Exception):
    """Work that was under way cannot go on; the message says where and why.

    The command line prints it without a traceback and exits with code 1.
    """


def first_line(error: BaseException) -> str:
    """What a library says in its first line, or the kind of its error where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
