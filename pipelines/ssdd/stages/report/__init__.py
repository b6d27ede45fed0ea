"""Figures and a page for people."""
