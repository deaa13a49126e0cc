"""What a run found, as pandas tables for the terminal, for Markdown and for programs.

Start with `Run.read` and `models`, whose cells are text for people; `numbers` is for programs.
"""

from nasimb.report.run import Run
from nasimb.report.tables import calibrations, comparison, data_notes, models, numbers, pareto, spend

__all__ = ["Run", "calibrations", "comparison", "data_notes", "models", "numbers", "pareto", "spend"]
