"""The service as an operator runs it, on the tests' replica set."""

from tests.flow.conftest import conductor, db, start
from tests.flow.process import launch

__all__ = ["conductor", "db", "launch", "start"]
