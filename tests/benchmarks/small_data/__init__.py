"""What makes DINOv2 learn from few images: `python -m tests.benchmarks.small_data`."""
