"""A stage in one process, or in several that train together. Whatever fails first is what the user reads."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from align import cluster
from align.allocator import keep_freed_memory
from align.artifacts import work_dir
from align.config import config, parse
from align.engine.verdict import Heard, verdict
from align.errors import LaunchError

ADDRESS = re.compile(r"auto|[^/\s]+:\d{1,5}")
OBJECT_STORE_MB = 200  # of a cluster started here: training keeps nothing there, a pool its weights
PERIOD = 0.2  # seconds between looks at what the workers say
PEERS = 5.0  # seconds that a worker which missed another waits: that one's death is to be seen first


@config
class LaunchConfig:
    """How many processes train together, and who starts them."""

    processes: Annotated[int, pydantic.Field(ge=1)] = 1
    kind: Literal["local", "ray"] = "local"  # local: here, by torchrun; ray: by Ray Train, on a cluster
    # of kind ray alone:
    address: str | None = None  # of a running cluster, auto or HOST:PORT; none starts one on this machine
    cpus: Annotated[float, pydantic.Field(gt=0)] | None = None  # a process asks for, and its threads; 1
    gpus: Annotated[int, pydantic.Field(ge=0, le=1)] | None = None  # a process asks for: it trains on one; 0
    start_timeout_s: Annotated[float, pydantic.Field(gt=0)] | None = None  # that a cluster may take to make room; 300

    def __post_init__(self) -> None:
        if self.kind == "local":
            for name in ("address", "cpus", "gpus", "start_timeout_s"):
                if getattr(self, name) is not None:
                    raise ValueError(f"launch.{name}: only with launch.kind ray; local processes run on this machine")
        elif self.address is not None and not ADDRESS.fullmatch(self.address):
            raise ValueError(f"launch.address: found {self.address!r}, expected auto or HOST:PORT, or none at all")


def launch(module: str, recipe: Mapping[str, Any], out: Path, settings: LaunchConfig) -> None:
    """Run a stage: ``module.run(parse(module.Recipe, recipe), out)``, in this process where one is enough.

    Args:
        module: a stage's import path; it offers ``Recipe`` and ``run``.
        recipe: plain values.
        out: the artifact's folder.
        settings: processes.

    Raises:
        AlignError: what the first failing process raised, of its own class, its rank in front.
        LaunchError: a process or a cluster died, or failed with an error that is not one of ours.
    """
    if settings.kind == "ray":
        _run_on_ray(module, recipe, out, settings)
    elif settings.processes == 1:
        run_stage(module, recipe, out)
    else:
        from align.engine.torchrun import run_here

        run_here(module, recipe, out, settings.processes)


def run_stage(module: str, recipe: Mapping[str, Any], out: Path) -> None:
    """Import a stage, check its recipe and run it here."""
    keep_freed_memory()
    stage = importlib.import_module(module)
    stage.run(parse(stage.Recipe, recipe, module), out)


# How Ray Train is to work; who knows better sets them in the environment.
TRAIN = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths of a recipe are as they are here
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what workers say reaches the terminal by the desk, once
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # where a rank has died, the others cannot leave in order
}
HANDED_ON = re.compile(r"ALIGN_|WANDB_|OMP_|GOMP_|KMP_|MKL_|DS_|NCCL_|GLOO_|PYTORCH_")  # of the environment


def _run_on_ray(module: str, recipe: Mapping[str, Any], out: Path, settings: LaunchConfig) -> None:
    cluster.before_import()
    for name, value in TRAIN.items():
        os.environ.setdefault(name, value)
    timeout = 300.0 if settings.start_timeout_s is None else settings.start_timeout_s
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(timeout)
    import ray
    from ray.train import TrainingFailedError

    from align.engine.desk import Desk

    storage = work_dir(out).resolve() / "ray"  # Ray Train wants a folder that all see; ours keeps its own records
    with cluster.connected(ray, settings.address, _room(recipe, settings), OBJECT_STORE_MB):
        desk = ray.remote(num_cpus=0)(Desk).remote()
        task = {"module": module, "recipe": dict(recipe), "out": str(out), "folder": str(Path.cwd()), "desk": desk}
        heard, ended = Heard(settings.processes), False
        training = _Training(task, settings, storage)
        try:
            while not training.join(PERIOD):
                _listen(desk, heard)
            _listen(desk, heard)
            ended = True
        except ray.exceptions.RayError as error:
            raise LaunchError(f"Ray at {settings.address or 'this machine'} is lost: {_first_line(error)}") from error
        finally:
            shutil.rmtree(storage, ignore_errors=True)
            if not ended:  # interrupted, and this Ray may be another's, and stay
                training.abandon(desk)
        failure = training.error
        if isinstance(failure, (TrainingFailedError, ray.exceptions.RayError)):
            failures = getattr(failure, "worker_failures", {})
            heard.dead = {rank: _cause(failures[rank]) for rank in failures if rank not in heard.records}
            asked = f"each asks for {settings.cpus or 1:g} CPUs and {settings.gpus or 0} GPUs; {cluster.room(ray)}"
            raise verdict(heard, f"{_first_line(failure)} ({asked})") from failure
        if failure is not None:
            raise failure


class _Training:
    """``TorchTrainer.fit`` under way in a thread, so that an interrupt and what workers say are heard meanwhile."""

    def __init__(self, task: dict[str, Any], settings: LaunchConfig, storage: Path) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        cpus, gpus = settings.cpus or 1.0, settings.gpus or 0
        environment = {name: value for name, value in os.environ.items() if HANDED_ON.match(name)}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, int(cpus))))
        if not gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.error: BaseException | None = None
        self.trainer = TorchTrainer(
            _work_on_ray,
            train_loop_config=task,
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=settings.processes,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(storage),
                worker_runtime_env={"env_vars": environment},
                # a failed run is told, and goes on when the user starts it again
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            ),
        )
        self.thread = threading.Thread(target=self._fit, name="align-ray-train", daemon=True)
        self.thread.start()

    def join(self, seconds: float) -> bool:
        """Wait; whether it has ended."""
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def abandon(self, desk: Any) -> None:
        """End the workers; Ray Train follows."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # where the cluster itself is gone there is nobody to end
            for worker in ray.get(desk.everyone.remote(), timeout=PEERS):
                ray.kill(worker)
            self.join(PEERS)

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except BaseException as error:  # the main thread raises it
            self.error = error


def _work_on_ray(task: dict[str, Any]) -> None:
    """What a Ray Train worker runs, its process group joined already; how it went is told at the desk."""
    import ray

    from align.engine import relay, worker

    rank, desk = int(os.environ["RANK"]), task["desk"]
    ray.get(desk.join.remote(rank, ray.get_runtime_context().current_actor))
    words: dict[str, Any] = {}
    with relay.forwarded(lambda stream, text: desk.say.remote(stream, text)):
        if Path(task["folder"]).is_dir():
            os.chdir(task["folder"])  # where the command was started: for paths that are not absolute
        worker.work(task, words.update, lambda phase: desk.enter.remote(rank, phase))
    ray.get(desk.tell.remote(rank, words))
    if words["state"] == "lost":
        time.sleep(PEERS)
    if words["state"] != "done":
        raise RuntimeError(words.get("message", words["state"]))


def _listen(desk: Any, heard: Heard) -> None:
    """Print what the workers have said since, and note the rest."""
    import ray

    said, heard.phases, heard.records = ray.get(desk.take.remote())
    for stream, text in said:
        print(text, end="", file=getattr(sys, stream), flush=True)


def _room(recipe: Mapping[str, Any], settings: LaunchConfig) -> int:
    """CPUs that a cluster started here is to count: it is for this command alone, a pool of the recipe's included."""
    room = settings.processes * (settings.cpus or 1.0)
    pool = recipe.get("pool")
    if isinstance(pool, Mapping) and pool.get("kind") == "ray":
        room += 2 * pool["actors"] * pool["cpus"]  # and a new actor in a lost one's place
    return math.ceil(room)


def _cause(failure: BaseException) -> str:
    """Of what a worker died: Ray Train wraps Ray's error, whose messages are whole pages."""
    told = str(getattr(failure, "health_check_failure", failure))
    detail = re.search(r"exit detail: (.*?)\.(?:\s|$)", told) or re.search(r"([^.\n]*memory[^.\n]*)\.", told)
    by = "by hand, or by the system when memory ran out"
    return f"{by}; Ray says: {detail[1].strip()}" if detail else by


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0] if lines else type(error).__name__
