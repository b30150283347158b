"""The tuner: searches kernel templates for a problem on a device, proves the winner and records it."""


class UserError(Exception):
    """An error that a user can cause. The message is one line: what is wrong and what to do about it."""
