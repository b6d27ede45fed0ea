"""How far a token sees: the published window of 15 x 15 tokens."""

RADIUS = 7
WINDOW = 2 * RADIUS + 1
