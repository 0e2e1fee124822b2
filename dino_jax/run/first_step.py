"""Time that a process takes to its first step, and the share of compilation."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

# Events of jax.monitoring. A program counts as compiled, too, when it comes from the cache.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_FOUND = "/jax/compilation_cache/cache_hits"


class Compilations:
    """Listens to jax from now on; `close` ends that.

    Attributes:
      programs: number of programs needed.
      from_cache: number of them found in the compilation cache.
      seconds: time that jax spent on compiling them or reading them from the cache.
    """

    def __init__(self):
        self.programs, self.from_cache, self.seconds = 0, 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add_seconds)
        jax.monitoring.register_event_listener(self._add_hit)

    def close(self) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._add_seconds)
        jax.monitoring.unregister_event_listener(self._add_hit)

    def _add_seconds(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.programs += 1
            self.seconds += duration_secs

    def _add_hit(self, event: str, **_: Any) -> None:
        self.from_cache += event == _FOUND


class FirstStep:
    """Measures the time of a process to its first step.

    first_step = FirstStep()
    …
    with first_step.batch(): batch = next(stream)
    first_step.begin()
    … = train_step(…)
    line = first_step.end()
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Starts the clock and listens to jax.

        Args:
          clock: seconds, monotonic.
        """
        self._clock = clock
        self._created = clock()
        self._compilations = Compilations()
        self._batch: float | None = None
        self._begun: tuple[float, float, int, int] | None = None
        self._ended = False

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context for loading the next batch."""
        asked = self._clock()
        yield
        if self._batch is None:
            self._batch = self._clock() - asked

    def begin(self) -> None:
        """Call before every step."""
        if self._begun is None:
            counts = self._compilations
            self._begun = (self._clock(), counts.seconds, counts.programs, counts.from_cache)

    def end(self) -> str | None:
        """Call after every step; jax returns from the first one once it is compiled.

        Returns:
          A line for the log after the first step, then None.
        """
        if self._ended or self._begun is None or self._batch is None:
            return None
        self._ended = True
        counts, now = self._compilations, self._clock()
        begun, seconds, programs, found = self._begun
        compiled = counts.seconds - seconds
        cached = counts.programs - programs == counts.from_cache - found
        return (
            f"first step  after {now - self._created:.1f} s: batch {self._batch:.1f} s, trace "
            f"{now - begun - compiled:.1f} s, compile {compiled:.1f} s"
            f"{' (from the cache)' if cached else ''}; {counts.from_cache} of {counts.programs} "
            "programs so far from the compilation cache"
        )

    def close(self) -> None:
        """Stops listening."""
        self._compilations.close()
