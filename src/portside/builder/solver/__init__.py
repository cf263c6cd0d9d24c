"""The solver: from LLB to trees, each step once, through a cache that outlives the engine."""
