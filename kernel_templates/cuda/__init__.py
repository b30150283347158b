"""What every GPU template is made of: packed weights, activation vectors, integer dot products, launches and graphs."""
