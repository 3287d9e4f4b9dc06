"""Which part of the reasoning the answer depends on, and through which heads (METHOD section 5)."""
