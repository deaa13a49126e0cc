"""The `nasimb` command."""

from __future__ import annotations

from nasimb.cli.main import main as main
