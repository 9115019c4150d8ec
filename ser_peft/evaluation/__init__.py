"""Evaluation: metrics, intervals, fairness, calibration, comparisons."""
