"""Continued pretraining on the speech of the task: TAPT and P-TAPT."""
