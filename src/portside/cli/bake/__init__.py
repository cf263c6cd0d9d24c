"""``portside buildx bake``: many builds from one file, in HCL, JSON or Compose."""
