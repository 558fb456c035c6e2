"""Tests of LightIPN; the list of their docstrings is its specification."""
