"""`python -m service` is `councilor-scheduler`."""

import signal


def main() -> None:
    """Run a command; Ctrl-C ends it without a traceback from its first moment on."""
    at_first = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.cli import main as run  # noqa: PLC0415 it takes a while

    signal.signal(signal.SIGINT, at_first)
    run()


if __name__ == "__main__":
    main()
