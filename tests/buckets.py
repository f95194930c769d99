"""A bucket in memory that tells what is asked of it, so that a test can stop a worker there, or let another one in between."""

import random
import threading
from collections.abc import Callable

from distillery.storage import MemoryStore

Watch = Callable[[str, str], None]
"""Told the kind of a request that changes the bucket (write, create, delete) and its key, before it takes effect."""


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def let_pass(kind: str, key: str) -> None:
    """Nothing happens."""


class Bucket(MemoryStore):
    """One bucket, seen through one or several stores.

    Args:
        objects: shared by all who look at the bucket.
        prefix: folder in it.
        watch: may raise or do other work.
        honest: whether the server honours conditions; else the last of two writers at once wins, and both read who it was.
    """

    remote = True

    def __init__(self, objects: dict[str, bytes], prefix: str = "", watch: Watch = let_pass, honest: bool = True) -> None:
        super().__init__(objects, prefix)
        self.watch = watch
        self.honest = honest
        self.writing: list[str] = []
        self.uri = f"s3://bucket/{prefix}"

    def write(self, key: str, data: bytes) -> None:
        """Keep the bytes under the key."""
        self.watch("write", self._name(key))
        super().write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Keep the bytes unless the key is taken."""
        if self.honest:
            self.watch("create", self._name(key))
            if self._name(key) in self.objects:
                return False
            self.objects[self._name(key)] = data
            return True
        if self.exists(key):
            return False
        self.writing.append(key)
        self.watch("create", self._name(key))
        self.objects[self._name(key)] = data
        self.writing.remove(key)
        while key in self.writing:  # in truth a second is waited for them
            self.watch("settle", self._name(key))
        return self.read(key) == data

    def delete(self, key: str) -> None:
        """Forget an object."""
        self.watch("delete", self._name(key))
        super().delete(key)

    def below(self, prefix: str) -> "Bucket":
        """The part below a folder."""
        return self._at(self._name(prefix))

    def opened(self, uri: str) -> "Bucket":
        """What `open_store` gives for a URI of the bucket."""
        return self._at(uri.removeprefix("s3://bucket").strip("/"))

    def _at(self, prefix: str) -> "Bucket":
        found = Bucket(self.objects, prefix, self.watch, self.honest)
        found.writing = self.writing
        return found


def killing(number: int) -> Watch:
    """Kills the worker in its request of that number, counted from 1."""
    count = 0

    def watch(kind: str, key: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed(f"{kind} {key}")

    return watch


class Turns:
    """Lets one of several workers go on at a time, drawn anew at each request that changes the bucket.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int) -> None:
        self._draws = random.Random(seed)
        self._changed = threading.Condition()
        self._working: list[str] = []
        self._next = ""

    def watch(self, kind: str, key: str) -> None:
        """Wait for the turn of the calling worker; of a thread that is none, nothing is asked."""
        me = threading.current_thread().name
        if me in self._working:
            with self._changed:
                self._pass_on()
                assert self._changed.wait_for(lambda: self._next == me, timeout=60), "nobody goes on"

    def play(self, workers: dict[str, Callable[[], object]]) -> dict[str, BaseException]:
        """Let all of them work to their end; what each one raised, by name."""
        failed: dict[str, BaseException] = {}
        self._working = sorted(workers)

        def work(name: str) -> None:
            try:
                self.watch("begin", "")
                workers[name]()
            except BaseException as error:  # shown to the test, which is another thread
                failed[name] = error
            finally:
                with self._changed:
                    self._working.remove(name)
                    self._pass_on()

        threads = [threading.Thread(target=work, args=(name,), name=name) for name in sorted(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed

    def _pass_on(self) -> None:
        self._next = self._draws.choice(self._working) if self._working else ""
        self._changed.notify_all()
