"""What the kernels compute, for any device: shapes, borders, and the index arrays a structure becomes for them."""
