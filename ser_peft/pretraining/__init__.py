"""Pretraining that goes on with the speech of the task."""
