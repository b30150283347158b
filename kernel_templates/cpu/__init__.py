"""What every CPU kernel is made of: vectors, weight tiles, activations, and the team of threads that runs them."""
