"""Names of the files that make a model version."""

from typing import Final

MODEL_FILE: Final = "model.bin"
BLEND_FILE: Final = "blend.json"
COUNTING_FILE: Final = "counting.json"
OPTIMISER_FILE: Final = "optimiser.bin"
LINEAR_FILE: Final = "linear.bin"
"""Weights of the linear source; a version of before there were any has none."""
REPORT_FILE: Final = "report.json"
