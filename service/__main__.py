"""`python -m service` is `councilor-scheduler`."""

from service.cli import main

main()
