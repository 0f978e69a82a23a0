"""What runs one program of HumanEval, in a process of its own: ``python -I -S guarded.py``, started by ``programs.py``.

The one place of this library where text from a file is executed. It is never imported. It reads one JSON line from
standard input, takes away what the process may do, runs the solution and the test, and writes into the pipe that the
line names what became of them: the line it was given as ``token`` where, and only where, both ran to their end.

The process loses, in this order: its privileges (the user "nobody", where it was root), memory, processor time, file
size, open files, further processes, core dumps; by Python's audit hooks, which a program cannot take off again,
sockets, subprocesses, signals, foreign functions, and every change to files outside its own empty folder.
"""

import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

NOBODY = 65534
REPORT = 3
FORBIDDEN = (
    "socket.", "subprocess.", "ctypes.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile",
    "os.fork", "os.kill", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.chflags", "os.setxattr",
    "os.removexattr", "os.utime", "shutil.", "signal.", "resource.setrlimit", "resource.prlimit", "pty.", "webbrowser.",
    "ftplib.", "http.", "imaplib.", "poplib.", "smtplib.", "telnetlib.", "urllib.", "sys._getframe", "gc.get_",
    "code.__new__",
)  # fmt: skip
WITHIN = ("os.remove", "os.rename", "os.rmdir", "os.mkdir")  # in the program's own folder these are its own business
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ForbiddenError(PermissionError, ValueError):
    """What a program was kept from. A ValueError too: the standard library does without ``sys._getframe`` on one."""


def become_nobody() -> None:
    """Give up root, which may have as many processes and write as many files as it likes.

    The standard library may lie where nobody but root can go (pyenv in root's home): its folders are held open, and
    looked into by way of the descriptors.
    """
    folders = [path for path in sys.path if Path(path).is_dir()]
    held = {path: f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_DIRECTORY)}" for path in folders}
    sys.path[:] = held.values()
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        for path in getattr(module, "__path__", [])[:]:
            parent, name = os.path.split(path)
            if parent in held:
                module.__path__ = [f"{held[parent]}/{name}"]
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def limit(memory: int, seconds: int, file_size: int) -> None:
    """Take away resources; bytes, seconds of processor time, bytes."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # a space's first process does not hear the first
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 1),  # of this user: there is one already, so there is no other
    ):
        resource.setrlimit(what, (most, most))


def guard(folder: str) -> None:
    """Have Python itself refuse what a function that is tested has no need of."""

    def inside(path: object) -> bool:
        if isinstance(path, int):
            return True  # open already
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        return os.path.realpath(text if text.startswith("/") else f"{folder}/{text}").startswith(f"{folder}/")

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = given
            writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & WRITING
            if writes and not inside(path):
                raise ForbiddenError(f"{event} {path!r} to write")
        elif event in WITHIN:
            if not all(inside(path) for path in given if isinstance(path, (str, bytes, os.PathLike))):
                raise ForbiddenError(f"{event} {given!r}")
        elif event.startswith(FORBIDDEN):
            raise ForbiddenError(event)

    sys.addaudithook(hook)


def main() -> None:
    """Run one program and report."""
    task = json.loads(sys.stdin.buffer.readline())
    if task["report"] != REPORT:
        os.dup2(task["report"], REPORT)
        os.close(task["report"])
    empty = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(empty, standard)
    folder = os.path.realpath(task["folder"])
    os.chdir(folder)
    if os.geteuid() == 0:
        become_nobody()
    limit(task["memory"], task["seconds"], task["file_size"])
    guard(folder)
    names: dict[str, object] = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        for part in ("solution", "test"):
            exec(compile(task[part], part, "exec"), names)
        said = task["token"]
    except MemoryError:
        said = "out of memory"
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: whatever it is, the test did not end
        said = f"failed: {type(error).__name__}"
        with suppress(BaseException):  # an error that cannot be told
            said += f": {error}"[:200]
    os.write(REPORT, said.encode("utf-8", "replace")[:300])
    os._exit(0)  # what the program has left to be done at exit is not done


if __name__ == "__main__":
    main()
