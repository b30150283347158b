"""How a mixture of experts can be built: the router, gate and up of the chosen experts, down of them."""
