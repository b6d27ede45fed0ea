"""The figures and the page of one run, for people."""
