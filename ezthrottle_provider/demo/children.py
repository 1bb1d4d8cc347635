"""Processes that the demo starts, and the agreement that none of them outlives it.

The parent holds the other end of each child's stdin. When that closes, however the parent ended, the child ends; and
it ends by itself when its time is over, however the parent hangs. Children have a session of their own: a ctrl-C in
the terminal reaches the parent alone, which then ends them in order.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import IO, Final

__all__ = ["Child", "end_with_parent"]

_PATIENCE_S: Final = 2.0
_LAST_WORDS: Final = 2_000


class Child:
    """A module of this package, run by the same interpreter; ends with the ``with`` block. ``stdout`` is text."""

    def __init__(self, module: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__; a pipe would need a reader
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and arguments of our own
            [sys.executable, "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            text=True,
            # The demo shows what its own code says: a config of the user's must not change what it measures.
            env={name: value for name, value in os.environ.items() if not name.startswith("EZTHROTTLE_")},
        )
        assert self._process.stdout is not None
        self.stdout: IO[str] = self._process.stdout

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.stdout.close()
        self._stderr.close()

    def wait(self, *, timeout_s: float | None = None) -> int:
        """Return the exit code; raises ``subprocess.TimeoutExpired``."""
        return self._process.wait(timeout_s)

    def last_words(self) -> str:
        """Return the end of what it wrote to stderr."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _LAST_WORDS))
        return self._stderr.read().decode(errors="replace").strip()


def end_with_parent(*, at_most_s: float) -> None:
    """End this process when its stdin closes, and in any case after ``at_most_s`` seconds; call it first."""

    def watch() -> None:
        select.select([sys.stdin], [], [], at_most_s)
        os._exit(1)  # nothing of the demo is worth saving, and nothing may keep it from ending

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
