"""Batch jobs that outgrow one machine: orders go through Redis to any number of workers, outcomes come back (extra ``cluster``; asyncio).

scripts    what Redis does in one step, by its own clock
store      those steps as calls; the room that knows Redis
messages   orders and outcomes as JSON
worker     takes orders, watches them in a batch, tells how they end
job        the user's side: submit, outcomes, workers
__main__   a worker as a command
"""

from sms4sats_async.cluster.job import Cluster, DeadLetter, WorkerState
from sms4sats_async.cluster.worker import Worker

__all__ = ["Cluster", "DeadLetter", "Worker", "WorkerState"]
