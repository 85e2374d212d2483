"""The errors that cross, by what the caller must do."""


class ServiceError(Exception):
    """The base of all errors that this service raises on purpose."""


class Unavailable(ServiceError):
    """The other side did not answer, or not now: wait, then try again."""


class LookAgain(Unavailable):
    """Nothing is wrong: somebody else is at it, or it took too long to be relied upon."""


class WatchLost(ServiceError):
    """The change stream is gone: enter it again and list. `reason` is short, for a metric."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Misconfigured(ServiceError):
    """The other side will never do what is asked until a person changes something."""


class Refused(ServiceError):
    """The database refuses this one write, and always will."""
