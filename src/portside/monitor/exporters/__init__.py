"""Export of samples to other systems: what is sent (the encoders) and how (``exporting``)."""
