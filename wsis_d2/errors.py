"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something that the user can mend: a missing file, a wrong class name, an empty label.

    The message is one clear sentence: what is wrong, where, and what to do. The tools print it
    without a traceback and exit with code 2.
    """
