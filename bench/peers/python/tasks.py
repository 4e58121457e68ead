"""Celery peer: tasks that do nothing, acknowledged after they ran.

    python tasks.py fill COUNT      puts so many into the queue
    celery -A tasks worker ...      handles them
"""

import os
import sys

from celery import Celery

app = Celery("tasks", broker=os.environ["BENCH_AMQP_URI"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="bench.celery",
    worker_prefetch_multiplier=200,
    broker_connection_retry_on_startup=True,
)


@app.task
def nothing(document):
    return None


if __name__ == "__main__" and sys.argv[1] == "fill":
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(int(sys.argv[2])):
            nothing.apply_async(({"order": number, "note": "x" * 980},), producer=producer)
