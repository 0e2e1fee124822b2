"""What a run needs on which TPUs, by the TPU compiler alone: no TPU is needed."""
