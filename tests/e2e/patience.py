"""The limit to each wait of a test for an event."""

from __future__ import annotations

PATIENCE = 60.0
"""Seconds after which a missing event is a failure.

No test that passes waits for so long, and none depends on the speed of the machine.
"""
PATIENCE_MS = int(PATIENCE * 1_000)
"""The same for Playwright."""
