"""Who lives: a file for each open journal, locked for as long as its process does.

The operating system lets go of the lock when the process ends, whatever ended it. So no clock is asked, neither the wall's, which may be
wrong, nor that of a laptop that slept; and no process number, which may be somebody else's by now.
"""

import os
import secrets
import sys
import weakref
from contextlib import suppress
from pathlib import Path

if sys.platform == "win32":  # pragma: no cover - the same by another name
    import msvcrt

    def _lock(descriptor: int, *, shared: bool = False) -> bool:  # there are no shared ones
        del shared
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int, *, shared: bool = False) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Life:
    """A life of our own: it ends with :meth:`end`, or with the process.

    Attributes:
        name: what others know it by; new each time.
    """

    def __init__(self, beside: Path) -> None:
        """Begin it, and clear away what dead ones have left behind.

        Raises:
            OSError: no file can be made beside this one.
        """
        self.name = secrets.token_hex(8)
        self._file = _file(beside, self.name)
        unseen = self._file if sys.platform == "win32" else self._file.with_suffix(".new")
        self._descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        _lock(self._descriptor)
        unseen.rename(self._file)  # locked before anybody can find it, and take it for a dead one's
        _lives.add(self)
        for other in beside.parent.iterdir():  # no pattern: the name may have signs of one
            if other.name.startswith(f"{beside.name}-") and other.suffix == ".live":
                lives(beside, other.stem.removeprefix(f"{beside.name}-"))

    def end(self) -> None:
        """End it."""
        with suppress(OSError):
            self._file.unlink()
        self.forked()

    def forked(self) -> None:
        """Have no part in it: in a fork, which would hold the lock for its parent, and outlive it."""
        _lives.discard(self)
        os.close(self._descriptor)


def lives(beside: Path, name: str) -> bool:
    """Is whoever has this name alive? What a dead one has left behind is cleared away.

    One that cannot be asked is taken to be alive: it may be another user's, or this process have too many files open.
    """
    file = _file(beside, name)
    try:
        descriptor = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        if not _lock(descriptor, shared=True):  # several may ask at once, and none takes another for the one who lives
            return True
        with suppress(OSError):
            file.unlink()
        return False
    finally:
        os.close(descriptor)


def _file(beside: Path, name: str) -> Path:
    return beside.with_name(f"{beside.name}-{name}.live")


_lives: weakref.WeakSet[Life] = weakref.WeakSet()


def _in_fork() -> None:
    for life in list(_lives):
        life.forked()


if sys.platform != "win32":  # pragma: no branch - it has no forks
    os.register_at_fork(after_in_child=_in_fork)
