"""What each part of the model is worth: the same data, steps and seeds with one thing changed at a time.

from bench.ablation.variants import VARIANTS
from bench.ablation.runs import Given, measured
"""
