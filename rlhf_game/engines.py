"""Where work is done: an ordered map of a function over tasks, in this process, in several, or on a cluster.

An engine knows nothing of what it maps. The function and its tasks must be picklable; results come in the order of the
tasks, one at a time, and only a few are ever ahead of whoever takes them. The function runs on one thread per worker.
"""

import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from threading import Thread
from time import sleep
from typing import Any, Final, TypeVar, final

from rlhf_game.cores import available_cores
from rlhf_game.errors import InputError, MissingExtra, RunError

T = TypeVar("T")
R = TypeVar("R")

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
END: Final[Any] = object()
"""What no function returns."""
AHEAD: Final = 2
"""Tasks that are begun for each worker."""


class Engine(ABC):
    """Does tasks somewhere."""

    @abstractmethod
    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield function(task) for each task, in order. An exception of the function comes out here."""


@final
@dataclass(frozen=True)
class Serial(Engine):
    """One after the other, in this process."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield the results."""
        return map(function, tasks)


@final
@dataclass(frozen=True)
class Local(Engine):
    """Processes of this machine (joblib). workers: >= 1; one worker is this process itself."""

    workers: int

    def __post_init__(self) -> None:
        _check_workers(self.workers)

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield the results; raises MissingExtra without joblib, RunError when a worker dies."""
        if self.workers == 1:
            return map(function, tasks)
        return self._spread(function, tasks)

    def _spread(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield results in the order of tasks, from joblib's processes, few ahead; a dead process is a RunError."""
        try:
            from joblib import Parallel, delayed, parallel_config
            from joblib.externals.loky.process_executor import BrokenProcessPool
        except ModuleNotFoundError as error:
            raise MissingExtra("parallel", error.name or "joblib") from error
        with parallel_config(backend="loky", inner_max_num_threads=1):
            pool = Parallel(n_jobs=self.workers, return_as="generator", pre_dispatch=f"{AHEAD} * n_jobs")
            results = pool(delayed(_watched)(function, os.getpid(), task) for task in tasks)
            try:
                while True:
                    with _without_regrets():
                        result = next(results, END)
                    if result is END:
                        return
                    yield result
            except BrokenProcessPool as error:
                raise RunError(f"a worker process died (out of memory?); what was done is kept: {error}") from error
            finally:
                with _without_regrets():
                    results.close()


@final
@dataclass(frozen=True)
class Devices(Engine):
    """Fresh processes of this machine, each of which sees one of the devices, as CUDA_VISIBLE_DEVICES names them."""

    devices: tuple[str, ...]

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield the results."""
        context = get_context("spawn")
        free = context.Queue()
        for device in self.devices:
            free.put(device)
        initial = (free, os.getpid())
        with ProcessPoolExecutor(len(self.devices), context, initializer=_take, initargs=initial) as pool:
            yield from pool.map(function, tasks)


def _take(free: Any, parent: int) -> None:
    """Let this process see one device, before torch is imported in it."""
    _end_with(parent)
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()


def _watched(function: Callable[[T], R], parent: int, task: T) -> R:
    _end_with(parent)
    return function(task)


@cache
def _end_with(parent: int) -> None:
    """Let this process end within seconds of the process that began it, however that ends."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _without_regrets() -> Iterator[None]:
    """Let joblib not warn of tasks that it gives up because nobody wants their results."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "[0-9]+ tasks (which were still being processed|have been successfully executed)"
        )
        yield


@final
@dataclass(frozen=True)
class Ray(Engine):
    """A Ray cluster, or one that is started on this machine for the while.

    workers: how many tasks run at a time; None means the cluster's processors. address: of a cluster (``auto``: the
    one that is running here); None starts one.
    """

    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            _check_workers(self.workers)

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield the results; raises MissingExtra without ray, RunError when there is no cluster or it is lost."""
        with self._connected() as ray:
            workers = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            remote = ray.remote(num_cpus=1)(_carried).options(max_retries=2)
            known = ray.put(function)
            pending: Any = deque()
            waiting = iter(tasks)
            try:
                pending.extend(remote.remote(known, task) for task in islice(waiting, AHEAD * workers))
                while pending:
                    yield ray.get(pending.popleft())
                    pending.extend(remote.remote(known, task) for task in islice(waiting, 1))
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else RunError(str(error)) from error
            except ray.exceptions.RayError as error:
                raise RunError(f"Ray lost a task; what was done is kept: {error}") from error

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Yield Ray, connected to the address or to a cluster of its own, which ends with the work."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtra("ray", error.name or "ray") from error
        is_ours = not ray.is_initialized()
        if is_ours:
            threads = {"env_vars": dict.fromkeys(THREADS, "1")}
            here: dict[str, Any] = {"num_cpus": self.workers, "include_dashboard": False}
            there = {"address": self.address}
            how = here if self.address is None else there
            try:
                ray.init(**how, runtime_env=threads, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise RunError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from error
        try:
            yield ray
        finally:
            if is_ours:
                ray.shutdown()


def _carried(function: Callable[[T], R], task: T) -> R:
    return function(task)


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise InputError(f"workers must be an integer >= 1, got {workers!r}")


def engine(name: str, workers: int | None = None, address: str | None = None) -> Engine:
    """Return the engine of that name: serial, local or ray. workers: default the processors there are.

    Raises InputError when there is none of that name, or the address of a cluster does not go with it.
    """
    if address is not None and name != "ray":
        raise InputError(f"address must come with engine ray, found engine {name}")
    if name == "ray":
        return Ray(workers, address)
    if name == "local":
        return Local(available_cores() if workers is None else workers)
    if name == "serial":
        if workers not in (None, 1):
            raise InputError(f"workers must be 1 with engine serial, found {workers}")
        return Serial()
    raise InputError(f"engine must be serial, local or ray, found {name!r}")
