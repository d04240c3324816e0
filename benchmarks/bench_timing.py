"""How the benchmarks take time: every row of a table in each round, after one that is not counted."""
import time
from collections.abc import Callable

import torch
from fastai.learner import Learner

from colorization_pix2pix.experiments.config import best_device

DEVICE = best_device()


def turns(jobs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    "A value of each job for each round."
    found = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            value = job()
            if i: found[name].append(value)
    return found


def rate(work: Callable, amount: float | None=None) -> Callable[[], float]:
    "`amount`, or else what `work` returns, for each second of `work`."
    def job():
        start = time.perf_counter()
        done = work()
        if DEVICE.type == 'cuda': torch.cuda.synchronize()
        return (done if amount is None else amount) / (time.perf_counter() - start)
    return job


def seconds(work: Callable) -> Callable[[], float]:
    "How long `work` takes."
    def job():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    return job


def cores(work: Callable) -> float:
    "How many cores `work` keeps busy in this process, over five times: processor seconds for each second."
    work()
    busy, start = time.process_time(), time.perf_counter()
    for _ in range(5): work()
    return (time.process_time() - busy) / (time.perf_counter() - start)


def pace(learn: Learner) -> Callable[[], float]:
    "Pictures a second of the next steps of a `short_learner`."
    def job():
        with learn.no_logging(): learn.fit(1)
        return len(learn.dls.train) * learn.dls.train.bs / learn.clock.seconds
    return job
