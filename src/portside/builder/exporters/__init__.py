"""Exporters: write a build's result as an image, files or archives."""
