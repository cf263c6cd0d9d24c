"""What a build's result becomes: an image, files, archives."""
