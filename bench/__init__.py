"""Measurements. Nothing here decides whether a test passes; figures are compared within one run on one machine."""
