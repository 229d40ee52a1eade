"""A worker process: what it claims, runs and answers; see `worker`."""
