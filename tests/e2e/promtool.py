"""Prometheus' own checks of docs/monitoring, by promtool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.server import CHECKOUT

PROMTOOL = CHECKOUT / "build" / "promtool"
"""Unpacked by tools/system-packages."""
RULES = CHECKOUT / "docs" / "monitoring" / "rules.yml"
DASHBOARD = CHECKOUT / "docs" / "monitoring" / "grafana.json"

Series = dict[str, str]
"""The values of series, a minute apart, in the notation of promtool: `0+60x40` grows by 60."""


def promtool(*arguments: str | Path, text: str = "") -> str:
    """What it printed; raises AssertionError with that if it found a fault."""
    ended = subprocess.run(
        [PROMTOOL, *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def rules_of_the_dashboard(folder: Path) -> Path:
    """A file of rules with the expressions of all panels, with values for Grafana's variables."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    values = {"$__rate_interval": "1m", "$instance": ".+", "$job": "pushserver"}
    rules = []
    for number, expression in enumerate(expressions):
        for name, value in values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    path = folder / "dashboard.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    return path


def _fired(name: str, labels: dict[str, str]) -> dict[str, dict[str, str]]:
    """An alert as promtool expects it: with the labels of its series, in its summary too."""
    rule = RULES.read_text("utf-8").partition(f"- alert: {name}\n")[2]
    summary = rule.partition("summary: ")[2].partition("\n")[0]
    for label, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
    return {"exp_labels": labels, "exp_annotations": {"summary": summary}}


def check_alerts(series: Series, expected: dict[str, dict[str, str]], folder: Path) -> None:
    """Raise AssertionError unless each alert fires after 40 minutes, and only with these labels."""
    test = {
        "rule_files": [str(RULES)],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": series[name]} for name in series],
                "alert_rule_test": [
                    {"eval_time": "40m", "alertname": name, "exp_alerts": [_fired(name, labels)]}
                    for name, labels in expected.items()
                ],
            }
        ],
    }
    path = folder / "test.json"
    path.write_text(json.dumps(test))
    promtool("test", "rules", path)
