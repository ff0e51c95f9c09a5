"""What makes large networks fit: their parameters divided among processes, and activations that are computed twice."""
