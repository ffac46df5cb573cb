"""The parts of the page's scripts that need no browser, in Node.js: tests/node/page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.patience import PATIENCE
from tests.page.site import ROOT

pytestmark = pytest.mark.slow


def test_scripts_without_a_browser(tmp_path: Path) -> None:
    # A copy: Node.js 18, that of Debian 12, loads a .js file as a module only below such a file.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for folder in ("static/js", "tests/node/page"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "tests" / "channel_names.json", tmp_path / "tests")
    files = sorted(map(str, (tmp_path / "tests" / "node" / "page").glob("*.test.mjs")))
    assert files
    done = subprocess.run(
        ["node", "--test", "--test-reporter=tap", *files],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
