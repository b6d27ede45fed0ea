"""The quality of samples, what it costs, and the rows beside them."""
