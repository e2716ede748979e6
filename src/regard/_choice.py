"""Which backends there are, and what is said where none of those that a caller wants can compute a call: the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from regard._errors import BackendError

# The first of a framework's backends that can compute a call does.
BACKENDS = {
    "numpy": ("native", "reference"),
    "torch": ("native", "tiled"),
    "jax": ("native", "tiled"),
    "tensorflow": ("native", "tiled"),
}


def wanted_names(framework: str, backend: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names that a caller asks for, in their order; all of a framework's where none is asked for."""
    if backend is None:
        return BACKENDS[framework]
    return (backend,) if isinstance(backend, str) else tuple(backend)


def served_names(framework: str, backend: str | Sequence[str] | None) -> tuple[str, ...]:
    """Those of the wanted names that compute this framework's arrays, for a call that is traced now and computed later.

    Raises BackendError where there are none.
    """
    names = wanted_names(framework, backend)
    served = tuple(name for name in names if foreign(framework, name) is None)
    if not served:
        raise no_backend(framework, [f"{name!r} {foreign(framework, name)}" for name in names])
    return served


def foreign(framework: str, name: str) -> str | None:
    """Why a backend computes no arrays of a framework, or None where it does."""
    frameworks = [some for some, names in BACKENDS.items() if name in names]
    if not frameworks:
        return "is no backend"
    if framework in frameworks:
        return None
    *most, last = frameworks
    kinds = f"{', '.join(most)} and {last}" if most else last
    return f"computes {kinds} arrays, these are {framework}"


def no_backend(framework: str, reasons: Sequence[str]) -> BackendError:
    """The error for a call that no wanted backend can compute, `reasons` saying of each why not."""
    known = sorted({name for names in BACKENDS.values() for name in names})
    return BackendError(
        f"no wanted backend can compute this call: {'; '.join(reasons) or 'none was named'}. Expected one of "
        f"{', '.join(map(repr, BACKENDS[framework]))} (all there are: {', '.join(known)}). Leave backend=None to let regard choose."
    )
