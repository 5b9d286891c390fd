"""Evaluators by data set type, and the summary of their results."""
