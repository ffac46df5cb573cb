"""The versions that setup.py declares are those that were tested: see `tools/versions.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from packaging.version import Version

from tools.versions import CHECKOUT, LOWEST, constraints, declared, installed

SETUP = """
setup(
    python_requires=">=3.11",
    install_requires=["autobahn[twisted]>=26.10.1"],
    extras_require={"cron": [%r]},
)
"""


def pins(text: str) -> dict[str, Version]:
    pairs = (line.split("==") for line in text.splitlines() if "==" in line)
    return {name.lower(): Version(version) for name, version in pairs}


def test_declared_versions_are_those_that_passed() -> None:
    bounds = {
        name: Version(one) for name, one in declared((CHECKOUT / "setup.py").read_text()).items()
    }
    assert bounds == pins(LOWEST.read_text()), "run `make lowest`"


def test_declared_versions_are_not_above_the_pinned_ones() -> None:
    pinned = pins((CHECKOUT / "constraints.txt").read_text())
    lowest = pins(LOWEST.read_text())
    assert lowest.pop("python") <= Version("{}.{}".format(*sys.version_info))
    assert {name for name, version in lowest.items() if pinned[name] < version} == set()


def test_the_bounds_are_read_from_the_calls_arguments() -> None:
    assert declared(SETUP % "cronsim>=2.6") == {
        "python": "3.11",
        "autobahn": "26.10.1",
        "cronsim": "2.6",
    }


@pytest.mark.parametrize("requirement", ["tzdata", "tzdata<3", "tzdata>=1,<3", "tzdata==2"])
def test_a_requirement_without_a_plain_lower_bound_is_an_error(requirement: str) -> None:
    with pytest.raises(ValueError, match=f"{requirement!r} in setup.py: expected NAME>=VERSION"):
        declared(SETUP % requirement)


def test_constraints_keep_the_pins_of_everything_else() -> None:
    pinned = "# comment\nJinja2==3.1.6\nidna==3.20\n"
    assert [*constraints(pinned, {"jinja2": "3.1"})] == ["# comment", "jinja2==3.1", "idna==3.20"]


def test_the_record_has_the_versions_of_the_environment() -> None:
    python, pytest_ = installed(iter(["python", "pytest"]))
    assert python == "python=={}.{}".format(*sys.version_info)
    assert pytest_ == f"pytest=={pytest.__version__}"


def test_a_python_that_is_not_here_is_named() -> None:
    command = [str(CHECKOUT / "tools" / "python"), "3.99"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "there is no Python 3.99 here\n")
