"""Build a wheel, look at what it holds, and run its kernel in a bare environment. Takes about two minutes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wheel"
INSTALL = [
    "-m",
    "pip",
    "--disable-pip-version-check",
    "install",
    "--quiet",
    "--constraint",
    "constraints.txt",
]
SOURCE = ROOT / "src"
SAMPLES = (".gz", ".npz", ".md")
KERNEL = re.compile(r"regard/_kernel\.[^/]+\.(so|pyd)")


def run(*command: str | Path, **options: object) -> None:
    """Run a command in the repository; its failure is ours."""
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, **options)


def built_wheel(folder: Path) -> Path:
    """A new wheel, which must have a kernel; the object files stay under `build/wheel`."""
    environment = {**os.environ, "REGARD_REQUIRE_KERNEL": "1"}
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--config-settings", f"build-dir={BUILD}"]
    run(sys.executable, "-m", "pip", "wheel", ".", *options, "--wheel-dir", folder, env=environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def content_problems(names: list[str], wheel: str) -> list[str]:
    """What a wheel holds too much or too little."""
    problems = [
        f"{name}: only the package belongs into a wheel"
        for name in names
        if not KERNEL.fullmatch(name)
        and (
            not re.match(r"regard(-[^/]+\.dist-info)?/", name)
            or name.endswith((".cpp", ".h", ".o", ".a", ".so", ".pyd"))
        )
    ]
    samples = (path for path in (SOURCE / "regard" / "samples").rglob("*.*") if path.suffix in SAMPLES)
    problems += [
        f"{path.relative_to(SOURCE)}: a sample that no wheel holds"
        for path in samples
        if path.relative_to(SOURCE).as_posix() not in names
    ]
    if sum(bool(KERNEL.fullmatch(name)) for name in names) != 1:
        problems.append("regard/_kernel: a wheel holds exactly one")
    if wheel.endswith("-any.whl"):
        problems.append(f"{wheel}: the name says that it has no kernel")
    return problems


def foreign_symbols(build: Path = BUILD) -> list[str]:
    """Weak functions outside the namespace of their instruction set.

    The linker keeps one of several weak functions of a name: one of the standard library's that was compiled for AVX-512 could be
    the one that every machine runs.
    """
    paths = sorted(build.rglob("kernel_*.dir/**/*.o*"))
    problems = [] if paths else [f"{build}: no object files to look at"]
    for path in paths:
        name = re.search(r"kernel_(\w+)\.dir", str(path))[1]
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        for line in listing.splitlines():
            kind, symbol = line.split(maxsplit=2)[1:]
            if kind in "WVu" and f"regard::{name}::" not in symbol:
                problems.append(f"{path.relative_to(build)}: {symbol}")
    return problems


def check_installed(wheel: Path, folder: Path) -> None:
    """Install the wheel beside NumPy alone, and run it from elsewhere than the sources."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, *INSTALL, wheel)
    run(python, "-I", ROOT / "tools" / "check_native.py")


def main() -> int:
    """Print what is wrong, or the wheel's name and size."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = built_wheel(Path(folder))
        with ZipFile(wheel) as archive:
            problems = content_problems(
                [name for name in archive.namelist() if not name.endswith("/")], wheel.name
            )
            kernel = sum(item.file_size for item in archive.infolist() if KERNEL.fullmatch(item.filename))
        problems += foreign_symbols()
        if not problems:
            check_installed(wheel, Path(folder) / "environment")
        print(
            "\n".join(problems)
            or f"{wheel.name}: {wheel.stat().st_size:,} bytes; its kernel unpacked: {kernel:,}."
        )
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
