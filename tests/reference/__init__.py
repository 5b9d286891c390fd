"""Naive implementations, loop by loop from the papers' equations, in float64."""
