"""What a person sees of a run, and what `metrics.jsonl` keeps of it."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Protocol

from regard.training.recipe import Recipe

WINDOW = 20  # steps over which loss and speed are shown


class Display(Protocol):
    """Where messages go: a live bar, plain lines, or nowhere."""

    def update(self, progress: float, text: str) -> None:
        """The state of the run has changed."""

    def line(self, text: str) -> None:
        """Something worth keeping on the screen."""

    def close(self) -> None:
        """The run is over."""


class Reporter:
    """Collects what happens, writes `metrics.jsonl`, and tells the display."""

    def __init__(self, metrics: Path | None, display: Display) -> None:
        self.metrics, self.display = metrics, display
        self.minutes: float | None = None
        self._losses: list[float] = []  # since the last line of metrics.jsonl
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=WINDOW)  # loss, tokens, time of a step
        self._started = self._since = time.monotonic()
        self._dev, self._digits = "", 1
        self._facts: dict[str, float] = {}  # of the last step

    def start(self, recipe: Recipe, seconds: float) -> None:
        """The next step is about to begin; `seconds` of training were done before."""
        self.minutes = recipe.minutes
        self._since = time.monotonic()
        self._started = self._since - seconds

    def step(
        self, *, step: int, loss: float, tokens: float, share: float, progress: float, epoch: int
    ) -> None:
        """One update is done."""
        now = time.monotonic()
        self._losses.append(loss)
        self._recent.append((loss, tokens, now))
        losses, counts, times = zip(*self._recent, strict=True)
        begin = self._since if len(times) < WINDOW else times[0]
        speed = sum(counts[len(times) == WINDOW :]) / max(now - begin, 1e-9)
        self._facts = {"step": step, "tokens_per_second": speed, "learning_rate_share": share, "epoch": epoch}
        if len(self._losses) == WINDOW:
            self._write_steps()
        whole = 60 * self.minutes if self.minutes else (now - self._started) / max(progress, 1e-9)
        mean = sum(losses) / len(losses)
        text = f"step {step}  loss {mean:.3f}  {speed:,.0f} tokens/s  {self._dev}{_clock(whole * (1 - progress))} left"
        self.display.update(progress, text)

    def dev(self, step: int, loss: float, scores: dict[str, float], better: bool, digits: int = 1) -> None:
        """The dev set was scored; scores are shown with so many digits."""
        self._write("dev", {"step": step, "dev_loss": loss, **scores})
        shown = "  ".join(f"{name} {value:.{digits}f}" for name, value in scores.items())
        name, value = next(iter(scores.items()))
        self._digits = digits
        self._dev = f"dev {name} {value:.{digits}f}  "
        self.display.line(
            f"step {step:>6}   dev loss {loss:.3f}   {shown}{'   best so far' if better else ''}"
        )
        self._recent.clear()
        self._since = time.monotonic()

    def note(self, text: str) -> None:
        """A message for people."""
        self.display.line(text)

    def finish(self, step: int, seconds: float, best: float, best_step: int) -> None:
        """The run is over."""
        self._write_steps()
        self._write("end", {"step": step, "best": best, "best_step": best_step})
        self.display.update(1.0, f"step {step}  done")
        self.display.close()
        self.display.line(
            f"{step} updates in {_clock(seconds)}; best dev score {best:.{self._digits}f} at step {best_step}"
        )

    def state(self) -> dict[str, Any]:
        """What going on needs: how long `metrics.jsonl` is, and the steps since its last line."""
        written = self.metrics.stat().st_size if self.metrics is not None and self.metrics.exists() else 0
        return {"written": written, "losses": self._losses}

    def restore(self, state: dict[str, Any]) -> None:
        """Forget what was written after `state` was taken: those steps are done again."""
        self._losses = list(state["losses"])
        if self.metrics is not None and self.metrics.exists():
            with self.metrics.open("r+b") as file:
                file.truncate(min(state["written"], self.metrics.stat().st_size))

    def _write_steps(self) -> None:
        """The mean loss of the steps since the last such line, where there are any."""
        if self._losses:
            self._write("step", {**self._facts, "loss": sum(self._losses) / len(self._losses)})
            self._losses = []

    def _write(self, event: str, facts: dict[str, Any]) -> None:
        if self.metrics is None:
            return
        entry = {"event": event, "seconds": round(time.monotonic() - self._started, 2), **facts}
        with self.metrics.open("a", encoding="utf8") as file:
            file.write(json.dumps({key: _short(value) for key, value in entry.items()}) + "\n")


class Lines:
    """Plain lines on stderr, one every `seconds` at most, for logs."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds, self._last = seconds, 0.0

    def update(self, progress: float, text: str) -> None:
        """Print the state now and then."""
        if time.monotonic() - self._last >= self.seconds:
            self._last = time.monotonic()
            self.line(f"{progress:4.0%}  {text}")

    def line(self, text: str) -> None:
        """Print at once."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 -- this is where messages leave

    def close(self) -> None:
        """Nothing is open."""


class Bar:
    """A live bar on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (BarColumn(bar_width=28), TaskProgressColumn(), TextColumn("{task.description}"))
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("starting", total=1.0)
        self._progress.start()

    def update(self, progress: float, text: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=progress, description=text)

    def line(self, text: str) -> None:
        """Print above the bar."""
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


class Silence:
    """No display at all."""

    def update(self, progress: float, text: str) -> None:
        """Say nothing."""

    def line(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing is open."""


def best_display() -> Display:
    """A live bar where stderr is a terminal, plain lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Lines()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value
