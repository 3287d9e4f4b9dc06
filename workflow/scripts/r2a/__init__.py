"""Does a reasoning model's answer depend on the reasoning it wrote? The library behind the workflow, and by itself."""
