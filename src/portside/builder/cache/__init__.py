"""The build cache beyond this engine: in registries, folders, and images themselves."""
