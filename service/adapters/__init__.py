"""The outside world: MongoDB, APScheduler, Conductor, an embedded mongod."""
