"""How the answer changes when the heads that attend to the reasoning are ablated (METHOD section 3)."""
