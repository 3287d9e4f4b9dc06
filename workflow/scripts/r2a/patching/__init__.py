"""Stage 3: does the answer depend on the reasoning's activations (METHOD section 4)."""
