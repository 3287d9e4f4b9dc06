"""Stage 2: what becomes of the answer when the heads that attend to the reasoning are ablated (METHOD section 3)."""
